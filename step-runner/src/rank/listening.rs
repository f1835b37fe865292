//! Whether a port listens, without a connection to it: the first bytes on it are for the user's program.

use std::time::Duration;

/// Between two looks: a share of what a program takes to start.
const FIRST: Duration = Duration::from_millis(20);
/// A program that takes long is not looked at more often than needed.
const LONGEST: Duration = Duration::from_millis(200);

/// The tables of this network namespace, which is the Pod's.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
/// `TCP_LISTEN`.
const LISTEN: &str = "0A";

/// Waits until a process of this network namespace listens on the port.
pub(super) async fn wait(port: u16) {
    let mut pause = FIRST;
    while !TABLES.iter().any(|table| std::fs::read_to_string(table).is_ok_and(|text| listens(&text, port))) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

/// Whether the kernel's table has a socket that listens on the port: `sl local_address rem_address st ...`, the address as
/// `hex:hex port`.
fn listens(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (Some(local), Some(_), Some(state)) = (fields.next(), fields.next(), fields.next()) else { return false };
        let local = local.rsplit_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        state == LISTEN && local == Some(port)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:733C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:733D 0100007F:733C 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000000000000:733E 00000000000000000000000000000000:0000 0A 00000000:00000000 00:0
";

    #[test]
    fn only_sockets_that_listen_count() {
        assert!(listens(TCP, 0x733c));
        assert!(!listens(TCP, 0x733d), "a connection from that port is no listener");
        assert!(listens(TCP6, 0x733e) && !listens(TCP6, 0x733c));
        for garbage in ["", "\n", "a\nb c\n", "x\n0: :zz y 0A\n"] {
            assert!(!listens(garbage, 0));
        }
    }

    #[tokio::test]
    async fn a_real_listener_is_seen_and_never_touched() {
        let runtime = async {
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let Ok(socket) = std::net::TcpListener::bind(address) else { continue };
                wait(socket.local_addr().unwrap().port()).await;
                socket.set_nonblocking(true).unwrap();
                assert_eq!(socket.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
            }
        };
        runtime.await;
    }
}
