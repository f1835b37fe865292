//! The process itself: what the runner asks of the kernel about its own process and its descendants.
//!
//! This is the one module with `unsafe` code: calls that no safe wrapper offers.
#![expect(unsafe_code, reason = "close_range, kill(-1), madvise and the initial environment have no safe wrapper")]

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

/// Makes this process unreadable for others of its user, its descriptors its own, and itself the parent of every orphan.
///
/// First of all: what happens before can be seen by whoever shares the user ID.
///
/// # Errors
/// When the kernel refuses: then credentials would not be safe and nothing may start.
pub fn harden() -> std::io::Result<()> {
    // A process that is not dumpable has a /proc/<pid> owned by root and cannot be traced by its own user.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    // Descriptors that whoever started us left open must not reach the child. Old kernels lack the call: then look one by one.
    // SAFETY: marks descriptors close-on-exec and touches no memory.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked != 0 {
        for entry in std::fs::read_dir("/proc/self/fd")?.flatten() {
            if let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok())
                && fd > 2
            {
                // SAFETY: sets a flag of a descriptor number; a number that is closed by now gives EBADF.
                unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
            }
        }
    }
    if !is_init() {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    }
    Ok(())
}

/// Whether this process is the first of its PID namespace, as in a container.
pub(crate) fn is_init() -> bool {
    rustix::process::getpid().is_init()
}

/// Overwrites the values of the variables that `secret` names where the kernel put them at `execve`.
///
/// Call it before a second thread exists, and after the values were copied.
pub fn erase_environment(secret: impl Fn(&[u8]) -> bool) {
    unsafe extern "C" {
        static environ: *mut *mut libc::c_char;
    }
    // SAFETY: `environ` is a null-terminated array of null-terminated strings. No other thread exists and none of ours has
    // called setenv, so each string is in the initial stack block, which is writable; bytes before the terminator only are
    // overwritten.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let text = *entry;
            let length = libc::strlen(text);
            let bytes = std::slice::from_raw_parts_mut(text.cast::<u8>(), length);
            if let Some(equals) = bytes.iter().position(|byte| *byte == b'=')
                && secret(&bytes[..equals])
            {
                bytes[equals + 1..].fill(0);
            }
            entry = entry.add(1);
        }
    }
}

/// Collects every child that has ended, until none is left to collect now.
pub(crate) fn reap(mut ended: impl FnMut(Pid, WaitStatus)) {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        ended(pid, status);
    }
}

/// Kills and collects every descendant that is left, wherever it moved itself (other group, other session).
///
/// Blocks only on processes that have got SIGKILL.
pub(crate) fn kill_all(group: Option<Pid>, mut ended: impl FnMut(Pid, WaitStatus)) {
    if let Some(group) = group {
        // ESRCH: the group is empty.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    loop {
        if is_init() {
            // SAFETY: signals every process of this PID namespace but ourselves; touches no memory.
            unsafe { libc::kill(-1, libc::SIGKILL) };
        } else {
            for child in children() {
                let _ = rustix::process::kill_process(child, Signal::KILL);
            }
        }
        // Orphans of a killed process become our children: look again after each.
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => ended(pid, status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// The children of this process, of all its threads.
fn children() -> Vec<Pid> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .filter_map(Pid::from_raw)
        .collect()
}

/// Gives memory back to the kernel: the user's code runs now, perhaps for days, and memory is its own.
///
/// Freed heap goes at once. So do the pages of our own code that were needed to get here: they stay in the page cache, and the few
/// that waiting needs are mapped again at the first touch.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc's own, thread-safe.
    unsafe {
        libc::malloc_trim(0);
    }
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    for (begin, end) in unchanged(&maps, &own.to_string_lossy()) {
        // SAFETY: a private mapping of a file that is not writable and has no anonymous page has no page that differs from the
        // file, so dropping its pages changes no byte; the next access reads the same from the file.
        unsafe { libc::madvise(begin as *mut libc::c_void, end - begin, libc::MADV_DONTNEED) };
    }
}

/// The address ranges in `/proc/self/smaps` where the program `own` is mapped, not writable and as it is in the file. (What the
/// dynamic relocations changed and is read-only since has anonymous pages.)
fn unchanged(smaps: &str, own: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut range = None;
    for line in smaps.lines() {
        let mut fields = line.split_ascii_whitespace();
        match (fields.next(), fields.next()) {
            (Some("Anonymous:"), Some("0")) => found.extend(range.take()),
            (Some(name), _) if name.ends_with(':') => {}
            (Some(addresses), Some(rights)) => {
                let hex = |text| usize::from_str_radix(text, 16).ok();
                let ours = !own.is_empty() && line.ends_with(own) && rights.starts_with("r-") && rights.ends_with('p');
                range = addresses.split_once('-').filter(|_| ours).and_then(|(a, b)| Some((hex(a)?, hex(b)?)));
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_in_the_file_is_given_back() {
        let mapping = |rights: &str, path: &str, anonymous: &str| {
            format!(
                "1000-2000 {rights} 0001a000 fe:00 123   {path}\nSize: 4 kB\nAnonymous:    {anonymous} kB\nVmFlags: rd ex\n"
            )
        };
        assert_eq!(unchanged(&mapping("r-xp", "/r", "0"), "/r"), [(0x1000, 0x2000)]);
        assert_eq!(unchanged(&mapping("r--p", "/r", "0"), "/r"), [(0x1000, 0x2000)]);
        assert_eq!(unchanged(&mapping("r--p", "/r", "116"), "/r"), []);
        assert_eq!(unchanged(&mapping("rw-p", "/r", "0"), "/r"), []);
        assert_eq!(unchanged(&mapping("r-xp", "/lib/libc.so", "0"), "/r"), []);
        assert_eq!(unchanged(&mapping("r-xp", "", "0"), ""), []);
        give_memory_back();
    }
}
