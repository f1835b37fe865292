//! A proxy in front of a real S3 service, for its faults: what it does with a request is decided from the request's first line and
//! headers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// What becomes of a request.
pub enum Fault {
    /// Nothing special.
    Pass,
    /// Answered here, never forwarded.
    Answer(u16, &'static str),
    /// Forwarded and done, but the answer is lost.
    LoseAnswer,
    /// The body of the answer is cut after so many bytes, and the connection closed.
    Cut(usize),
    /// Waits for a word before it is forwarded.
    Hold(std::sync::mpsc::Receiver<()>),
}

pub type Rule = dyn Fn(&str, &str) -> Fault + Send + Sync;

/// Starts a proxy before `upstream` (`http://host:port`); its own URL.
pub fn start(upstream: &str, rule: impl Fn(&str, &str) -> Fault + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upstream = upstream.trim_start_matches("http://").to_owned();
    let rule: Arc<Rule> = Arc::new(rule);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (upstream, rule) = (upstream.clone(), rule.clone());
            std::thread::spawn(move || one(stream.unwrap(), &upstream, rule.as_ref()));
        }
    });
    url
}

/// One request a connection: both sides close after the answer.
fn one(client: TcpStream, upstream: &str, rule: &Rule) -> Option<()> {
    let mut client = BufReader::new(client);
    let mut head = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        client.read_line(&mut line).ok().filter(|count| *count > 0)?;
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap();
        }
        let end = line == "\r\n";
        if !line.to_ascii_lowercase().starts_with("connection:") && !end {
            head.push_str(&line);
        }
        if end {
            break;
        }
    }
    let mut body = vec![0; length];
    client.read_exact(&mut body).ok()?;
    let first = head.lines().next().unwrap().to_owned();
    let fault = rule(&first, &head.to_ascii_lowercase());
    let mut client = client.into_inner();
    if let Fault::Answer(status, text) = fault {
        let length = text.len();
        let answer = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\netag: \"x\"\r\n\r\n{text}"
        );
        return client.write_all(answer.as_bytes()).ok();
    }
    if let Fault::Hold(word) = &fault {
        word.recv().ok()?;
    }
    let mut server = TcpStream::connect(upstream).ok()?;
    server.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).ok()?;
    server.write_all(&body).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    match fault {
        Fault::LoseAnswer => None,
        Fault::Cut(keep) => {
            let begin = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
            client.write_all(&answer[..answer.len().min(begin + keep)]).ok()
        }
        _ => client.write_all(&answer).ok(),
    }
}
