"""Unpacks what the wheels of a folder bring beside Python: programs and libraries, which `pip install --target` leaves out in part."""

import pathlib
import sys
import zipfile

folder, target = (pathlib.Path(argument) for argument in sys.argv[1:])
for wheel in sorted(folder.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            _, data, path = entry.filename.partition(".data/data/")
            if data and not entry.is_dir():
                file = target / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(archive.read(entry))
                file.chmod(entry.external_attr >> 16 & 0o777)
