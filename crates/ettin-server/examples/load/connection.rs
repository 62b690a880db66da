//! HTTP/1.1 as far as a client needs it whose requests are all alike.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A server that says nothing for so long has lost the request.
const SILENCE: Duration = Duration::from_secs(300);

/// A connection that is kept open between requests.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    line: String,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: bool,
    pub(crate) body: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        Ok(Self { stream: BufReader::with_capacity(1 << 16, stream), line: String::new() })
    }

    /// Sends a request in one piece and reads its answer to the end.
    pub(crate) fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.get_mut().write_all(request)?;
        let status = self.line()?.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
        let (mut length, mut chunked, mut retry_after) = (0, false, false);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().map_err(|_| broken())?,
                "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
                "retry-after" => retry_after = value.trim().parse::<u64>().is_ok_and(|seconds| seconds > 0),
                _ => {}
            }
        }
        let mut body = Vec::new();
        if !chunked {
            self.read(length, &mut body)?;
            return Ok(Answer { status, retry_after, body });
        }
        loop {
            let size = usize::from_str_radix(self.line()?.trim(), 16).map_err(|_| broken())?;
            self.read(size, &mut body)?;
            self.line()?;
            if size == 0 {
                return Ok(Answer { status, retry_after, body });
            }
        }
    }

    /// A line without its end.
    fn line(&mut self) -> io::Result<&str> {
        self.line.clear();
        match self.stream.read_line(&mut self.line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(self.line.trim_end()),
        }
    }

    fn read(&mut self, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
        let read = self.stream.by_ref().take(length as u64).read_to_end(body)?;
        if read == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// The bytes of a request with a JSON body.
pub(crate) fn post(address: &str, path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no answer in HTTP/1.1")
}
