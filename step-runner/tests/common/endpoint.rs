//! The operator's endpoint, as far as a runner sees it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

/// The key of the attempt, in hex.
pub const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// One request that came.
pub struct Request {
    pub line: String,
    pub signature: String,
    pub body: String,
}

fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let (mut length, mut signature) = (0, String::new());
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "x-trainyard-signature" => signature = value.to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Request { line: line.trim_end().to_owned(), signature, body: String::from_utf8(body).unwrap() })
}

/// Answers each report with the next status, and hands the requests out.
pub fn endpoint(statuses: &'static [u16]) -> (String, mpsc::Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for status in statuses {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            if let Some(request) = read_request(&mut stream) {
                sender.send(request).unwrap();
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    (url, requests)
}

/// What an attempt with [`KEY`] signs a body with.
pub fn signature(body: &str) -> String {
    let key: Vec<u8> = (0..32).collect();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key);
    let signature = ring::hmac::sign(&key, body.as_bytes());
    signature.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
