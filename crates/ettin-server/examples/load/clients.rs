//! Groups of clients, each client on a connection and a thread of its own, and connections that only take room.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::connection::{Connection, post};
use super::{Result, summary};

/// How often a slow connection sends its next byte.
const BYTE_EVERY: Duration = Duration::from_secs(1);

/// How long a client waits whose connection broke.
const PAUSE: Duration = Duration::from_millis(50);

/// Of a client's thread: it holds no more than a request and its answer, and those are on the heap.
const STACK: usize = 256 << 10;

/// What is sent to a server.
#[derive(Debug, Deserialize)]
pub(crate) struct Load {
    address: String,
    /// Connections that are opened and say nothing.
    #[serde(default)]
    idle: usize,
    /// Connections that send a request of which a byte comes every second.
    #[serde(default)]
    slow: usize,
    groups: Vec<Group>,
}

/// Clients that do the same at once. Together they go through the bodies, in order, again and again.
#[derive(Debug, Deserialize)]
struct Group {
    name: String,
    path: String,
    /// A file with a body in each line.
    bodies: PathBuf,
    clients: usize,
    /// When nothing more is sent.
    #[serde(default = "hours")]
    seconds: f64,
    /// Whether every body is sent once only.
    #[serde(default)]
    once: bool,
    /// Requests in a second of all clients together, whatever comes of them; without it a client sends its next one
    /// when it has its answer.
    #[serde(default)]
    rate: Option<f64>,
    /// Whether answers of 200 to the same body must be the same bytes.
    #[serde(default)]
    compare: bool,
    /// Where the first answer of 200 to each body goes, one in a line, empty where there is none.
    #[serde(default)]
    save: Option<PathBuf>,
}

fn hours() -> f64 {
    1e5
}

/// What a group of clients shares.
struct Shared<'a> {
    group: &'a Group,
    address: &'a str,
    requests: Vec<Vec<u8>>,
    next: AtomicUsize,
    first: Vec<OnceLock<Vec<u8>>>,
    begun: Instant,
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    seconds: Vec<f64>,
    statuses: BTreeMap<u16, usize>,
    /// Requests without an answer.
    lost: usize,
    /// Answers of 200 that are not those of the same body before.
    differing: usize,
    /// Answers of 429 and 503 that do not say when to try again.
    unadvised: usize,
    last: Duration,
}

pub(crate) fn run(load: Load) -> Result<Value> {
    let done = AtomicBool::new(false);
    let idle = (0..load.idle).map(|_| TcpStream::connect(&load.address)).collect::<std::io::Result<Vec<_>>>()?;
    let groups: Result<Value> = thread::scope(|scope| {
        if load.slow > 0 {
            scope.spawn(|| send_slowly(&load.address, load.slow, &done));
            // All of them are there before the clock starts.
            thread::sleep(2 * BYTE_EVERY);
        }
        let groups: Vec<_> = load.groups.iter().map(|group| scope.spawn(|| of_group(group, &load.address))).collect();
        let results: Result<serde_json::Map<String, Value>> = groups
            .into_iter()
            .zip(&load.groups)
            .map(|(running, group)| {
                let result = running.join().map_err(|_| "a client panicked")?;
                Ok((group.name.clone(), result?))
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        Ok(Value::Object(results?))
    });
    drop(idle);
    groups
}

fn of_group(group: &Group, address: &str) -> Result<Value> {
    let bodies = fs::read_to_string(&group.bodies)?;
    let requests: Vec<_> = bodies.lines().map(|body| post(address, &group.path, body)).collect();
    if requests.is_empty() {
        return Err(format!("{} holds no bodies", group.bodies.display()).into());
    }
    let first = requests.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let shared = Shared { group, address, requests, next, first, begun: Instant::now() };
    let seen = thread::scope(|scope| {
        let client = |_| thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || shared.client());
        let clients = (0..group.clients).map(client).collect::<std::io::Result<Vec<_>>>()?;
        let mut all = Seen::default();
        for client in clients {
            all.add(client.join().map_err(|_| "a client panicked")?);
        }
        Result::Ok(all)
    })?;
    if let Some(path) = &group.save {
        let mut file = std::io::BufWriter::new(fs::File::create(path)?);
        for answer in &shared.first {
            file.write_all(answer.get().map_or(&[], Vec::as_slice))?;
            file.write_all(b"\n")?;
        }
        file.flush()?;
    }
    Ok(json!({
        "requests": seen.statuses.values().sum::<usize>() + seen.lost,
        "seconds": seen.last.as_secs_f64(),
        "statuses": seen.statuses,
        "lost": seen.lost,
        "differing": seen.differing,
        "unadvised": seen.unadvised,
        "latency": summary(seen.seconds),
    }))
}

impl Shared<'_> {
    fn client(&self) -> Seen {
        let mut seen = Seen::default();
        let mut connection = None;
        let Group { seconds, once, rate, .. } = *self.group;
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if let Some(rate) = rate {
                let due = Duration::from_secs_f64(number as f64 / rate);
                thread::sleep(due.saturating_sub(self.begun.elapsed()));
            }
            if once && number >= self.requests.len() || self.begun.elapsed().as_secs_f64() >= seconds {
                return seen;
            }
            let index = number % self.requests.len();
            let sent = Instant::now();
            let asked = match &mut connection {
                Some(open) => Ok(open),
                closed => Connection::open(self.address).map(|open| closed.insert(open)),
            };
            match asked.and_then(|connection| connection.ask(&self.requests[index])) {
                Ok(answer) => {
                    *seen.statuses.entry(answer.status).or_default() += 1;
                    if answer.status == 200 {
                        seen.seconds.push(sent.elapsed().as_secs_f64());
                        if self.group.compare || self.group.save.is_some() {
                            let differs = self.differs(index, answer.body);
                            seen.differing += usize::from(self.group.compare && differs);
                        }
                    } else {
                        seen.unadvised += usize::from(matches!(answer.status, 429 | 503) && !answer.retry_after);
                    }
                }
                Err(_) => {
                    seen.lost += 1;
                    connection = None;
                    thread::sleep(PAUSE);
                }
            }
            seen.last = self.begun.elapsed();
        }
    }

    /// Whether an earlier answer was another one.
    fn differs(&self, index: usize, answer: Vec<u8>) -> bool {
        let mut own = Some(answer);
        let first = self.first[index].get_or_init(|| own.take().unwrap_or_default());
        own.is_some_and(|own| own != *first)
    }
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.seconds.extend(other.seconds);
        other.statuses.into_iter().for_each(|(status, count)| *self.statuses.entry(status).or_default() += count);
        self.lost += other.lost;
        self.differing += other.differing;
        self.unadvised += other.unadvised;
        self.last = self.last.max(other.last);
    }
}

/// Keeps connections open whose request never ends; one that the server closes is opened anew.
fn send_slowly(address: &str, count: usize, done: &AtomicBool) {
    let head = post(address, "/embed", "");
    let mut connections: Vec<Option<(TcpStream, usize)>> = (0..count).map(|_| None).collect();
    while !done.load(Ordering::Relaxed) {
        for connection in &mut connections {
            if connection.is_none() {
                *connection = TcpStream::connect(address).ok().map(|stream| (stream, 0));
            }
            if let Some((stream, sent)) = connection {
                // Up to the empty line, and never that.
                let byte = head.get(*sent).copied().filter(|_| *sent + 2 < head.len()).unwrap_or(b'a');
                match stream.write_all(&[byte]) {
                    Ok(()) => *sent += 1,
                    Err(_) => *connection = None,
                }
            }
        }
        thread::sleep(BYTE_EVERY);
    }
}
