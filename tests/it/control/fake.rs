//! A daemon's loop without a daemon: it answers requests with a function, keeps a journal, and notes what it was asked.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use telecon::{
    control::{
        server::{self, Greeting, Server},
        wire::{Command, EventRecord, Failure, Method, Subscription},
    },
    proto::{
        id::{CallId, Did},
        io::Event,
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::{broadcast, mpsc},
};

/// A condition that does not come about in this time fails the test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for what must come.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it never came")
}

/// The DID whose key is made of this byte.
pub fn did(byte: u8) -> Did {
    Did::from_key(ed25519_dalek::SigningKey::from_bytes(&[byte; 32]).verifying_key())
}

/// The call whose id is made of this byte.
pub fn call(byte: u8) -> CallId {
    CallId::from_bytes([byte; 16])
}

/// A request's answer; `None`: none, ever.
pub type Answer = Option<Result<Value, Failure>>;

/// A failure as the daemon would give it.
pub fn failure(code: &str, message: &str) -> Answer {
    Some(Err(Failure { code: code.into(), message: message.into() }))
}

/// The journal and its subscribers.
#[derive(Clone)]
pub struct Journal {
    kept: Arc<Mutex<Vec<Arc<EventRecord>>>>,
    live: broadcast::Sender<Arc<EventRecord>>,
}

impl Journal {
    fn new(capacity: usize) -> Self {
        Self { kept: Arc::default(), live: broadcast::Sender::new(capacity) }
    }

    /// Keeps an event and tells every watcher.
    pub fn emit(&self, event: Event) {
        let mut kept = self.kept.lock().expect("no panic");
        let record = Arc::new(EventRecord { seq: kept.len() as u64 + 1, time_ms: 1_000, event });
        kept.push(record.clone());
        // Nobody may be watching.
        let _watchers = self.live.send(record);
    }

    /// Events that wait for the slowest watcher.
    pub fn unread(&self) -> usize {
        self.live.len()
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        self.live.receiver_count()
    }

    fn subscribe(&self, since: Option<u64>) -> Subscription {
        let kept = self.kept.lock().expect("no panic");
        let from = since.map_or(kept.len(), |seq| seq as usize).min(kept.len());
        let snapshot = json!({ "seq": kept.len(), "active_call": null });
        Subscription { snapshot, replay: kept[from..].to_vec(), live: self.live.subscribe() }
    }
}

/// A small event.
pub fn small_event() -> Event {
    Event::MediaChanged { muted: true, deafened: false }
}

/// An event of about 2 KB.
pub fn large_event() -> Event {
    Event::CallRang { call: call(1), from: did(1), participants: (1..=31).map(did).collect(), known: true }
}

/// A served socket with a loop behind it.
pub struct Fake {
    pub dir: TempDir,
    pub server: Option<Server>,
    pub journal: Journal,
    asked: Arc<Mutex<Vec<Method>>>,
}

impl Fake {
    /// Answers every request with `{"done": true}`.
    pub fn new() -> Self {
        Self::answering(|_, _| Some(Ok(json!({ "done": true }))))
    }

    /// Answers with the function, which may emit events first.
    pub fn answering(answer: impl FnMut(&Method, &Journal) -> Answer + Send + 'static) -> Self {
        Self::with_capacity(1 << 16, answer)
    }

    /// As [`Fake::answering`]; watchers lag when this many events wait.
    pub fn with_capacity(
        capacity: usize,
        mut answer: impl FnMut(&Method, &Journal) -> Answer + Send + 'static,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (commands, mut receiver) = mpsc::channel(8);
        let server = server::serve(&dir.path().join("control.sock"), None, Greeting { did: did(1) }, commands);
        let server = Some(server.expect("a fresh directory"));
        let (journal, asked) = (Journal::new(capacity), Arc::new(Mutex::new(Vec::new())));
        let fake = Self { dir, server, journal: journal.clone(), asked: asked.clone() };
        tokio::spawn(async move {
            let mut never_answered = Vec::new();
            while let Some(command) = receiver.recv().await {
                match command {
                    Command::Call { method, reply, .. } => {
                        asked.lock().expect("no panic").push(method.clone());
                        match answer(&method, &journal) {
                            // The client may be gone.
                            Some(answer) => drop(reply.send(answer)),
                            None => never_answered.push(reply),
                        }
                    }
                    Command::Watch { since, reply } => drop(reply.send(Ok(journal.subscribe(since)))),
                }
            }
        });
        fake
    }

    /// The socket's path.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Method> {
        self.asked.lock().expect("no panic").clone()
    }

    /// A connection that says exactly what the test says.
    pub async fn raw(&self) -> Raw {
        let stream = UnixStream::connect(self.socket()).await.expect("the socket listens");
        let mut raw = Raw { stream: BufReader::new(stream), greeting: None };
        raw.greeting = raw.read().await;
        raw
    }
}

/// A client without manners.
pub struct Raw {
    pub stream: BufReader<UnixStream>,
    pub greeting: Option<Value>,
}

impl Raw {
    /// Sends a line.
    pub async fn send(&mut self, line: &str) {
        self.write(format!("{line}\n").as_bytes()).await;
    }

    /// Sends bytes.
    pub async fn write(&mut self, bytes: &[u8]) {
        soon(self.stream.get_mut().write_all(bytes)).await.expect("the server reads");
    }

    /// Sends a request without parameters.
    pub async fn ask(&mut self, id: u64, method: &str) {
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method }).to_string()).await;
    }

    /// The next line; `None`: the server closed.
    pub async fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        match soon(self.stream.read_line(&mut line)).await {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("a line of JSON")),
            Err(error) => panic!("the connection broke: {error}"),
        }
    }

    /// The next line, which must come.
    pub async fn line(&mut self) -> Value {
        self.read().await.expect("the server goes on")
    }
}
