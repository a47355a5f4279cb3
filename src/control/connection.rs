//! Serves one client: its lines in, answers and events out, all bounds in one place.
//!
//! ```text
//!  socket ─> input ─> lines ─> next ─(a place in the daemon's queue)─> in_flight ─┐
//!  socket <─ output <─────────────────────────────────────────────────────────────┴─ answers, replay, live events
//! ```
//! One task, one `select!`: nothing here waits for the client while the daemon has something for it, or the reverse.
//! A line that is too long gets one error and is skipped; the connection goes on. A last line without its newline is no
//! request. When the client ends its sending side it still gets the answers to what it asked; a watch ends then.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::{Buf, BytesMut};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rustix::net::{SendFlags, send, sockopt};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{
        broadcast::{self, error::RecvError},
        mpsc, oneshot,
    },
    time::Instant,
};
use tokio_util::{
    codec::{Decoder, LinesCodec, LinesCodecError},
    sync::CancellationToken,
};

use super::{
    rpc::{self, Ask, Refusal},
    wire::{Command, EventRecord, Failure, Subscription},
};

/// Requests of one client that wait for the daemon's answer; the next line is read when there is room again.
const MAX_IN_FLIGHT: usize = 16;
/// A client that leaves this much unread gets no further requests read, and no replay.
const PAUSE_BYTES: usize = 64 * 1024;
/// A watcher that leaves this much unread is told `lagged` and dropped.
const MAX_BACKLOG_BYTES: usize = 1024 * 1024;
/// How long a lagging client has to read that it lagged.
const LAGGED_GRACE: Duration = Duration::from_secs(5);
/// How long clients have to read their last answers when the daemon stops.
pub const FLUSH: Duration = Duration::from_millis(250);

/// The daemon's answer to one request, ready to be sent.
enum Answer {
    Plain(Option<Value>, Result<Value, Failure>),
    Watch(Option<Value>, Result<Subscription, Failure>),
}

/// Serves the client until it goes, lags, or the server stops.
pub fn serve(
    stream: UnixStream,
    greeting: &str,
    commands: mpsc::Sender<Command>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let (read, write) = stream.into_split();
    let mut connection = Connection {
        read,
        write,
        codec: LinesCodec::new_with_max_length(rpc::MAX_REQUEST_BYTES),
        input: BytesMut::new(),
        input_ended: false,
        next: None,
        in_flight: FuturesUnordered::new(),
        replay: VecDeque::new(),
        live: None,
        output: BytesMut::new(),
        deadline: None,
    };
    connection.say(greeting);
    async move {
        if let Err(error) = connection.run(&commands, &stop).await {
            tracing::debug!(%error, "a control client went away");
        }
    }
}

struct Connection {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    codec: LinesCodec,
    /// Bytes not made into lines yet; at most one line and one read.
    input: BytesMut,
    input_ended: bool,
    /// The request that waits for a place in the daemon's queue, with the answer to wait for.
    next: Option<(Command, BoxFuture<'static, Answer>)>,
    in_flight: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Kept events that were asked for; sent as the client reads.
    replay: VecDeque<Arc<EventRecord>>,
    /// Set while watching. What comes during the replay waits in the channel, which is bounded.
    live: Option<broadcast::Receiver<Arc<EventRecord>>>,
    /// Lines not written yet; at most a backlog and the answers in flight.
    output: BytesMut,
    /// Set when nothing but the output is left to do, and until when.
    deadline: Option<Instant>,
}

impl Connection {
    async fn run(&mut self, commands: &mpsc::Sender<Command>, stop: &CancellationToken) -> io::Result<()> {
        loop {
            self.take_lines();
            self.feed_replay();
            if self.is_done() {
                return Ok(());
            }
            let may_read = self.next.is_none() && !self.input_ended && self.may_take_more();
            let watching = self.live.is_some() && self.replay.is_empty();
            let deadline = self.deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                () = stop.cancelled(), if self.deadline.is_none() => self.close_within(FLUSH),
                () = tokio::time::sleep_until(deadline), if self.deadline.is_some() => return Ok(()),
                written = self.write.write_buf(&mut self.output), if !self.output.is_empty() => {
                    if written? == 0 {
                        return Ok(());
                    }
                }
                Some(answer) = self.in_flight.next(), if !self.in_flight.is_empty() => self.take_answer(answer),
                place = commands.reserve(), if self.next.is_some() => {
                    if let Some((command, answer)) = self.next.take() {
                        // Without a place the command is dropped, and its answer says that the daemon stops.
                        if let Ok(place) = place {
                            place.send(command);
                        }
                        self.in_flight.push(answer);
                    }
                }
                event = live_event(&mut self.live), if watching => self.take_event(event),
                read = self.read.read_buf(&mut self.input), if may_read => {
                    self.input_ended = read? == 0;
                    if self.input_ended && self.is_abandoned() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Reading is paused while the client has enough to read itself, or enough is being answered.
    fn may_take_more(&self) -> bool {
        self.deadline.is_none() && self.in_flight.len() < MAX_IN_FLIGHT && self.output.len() < PAUSE_BYTES
    }

    fn is_done(&self) -> bool {
        let quiet = self.output.is_empty() && self.in_flight.is_empty();
        quiet && (self.deadline.is_some() || self.input_ended && self.next.is_none() && self.replay.is_empty())
    }

    /// The client has closed both directions, so that nobody is left to answer: what it asked for goes on, its place is free.
    fn is_abandoned(&self) -> bool {
        let ready = self.write.ready(Interest::WRITABLE).now_or_never();
        ready.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_write_closed()))
    }

    fn close_within(&mut self, time: Duration) {
        self.deadline = Some(Instant::now() + time);
        self.next = None;
        self.live = None;
        self.replay.clear();
    }

    fn say(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\n");
    }

    fn take_lines(&mut self) {
        while self.next.is_none() && self.may_take_more() {
            let request = match self.codec.decode(&mut self.input) {
                Ok(None) => return,
                Ok(Some(line)) => rpc::parse(&line),
                Err(LinesCodecError::MaxLineLengthExceeded) => Err(Refusal::line_too_long()),
                Err(LinesCodecError::Io(_)) => Err(Refusal::not_utf8()),
            };
            match request {
                Ok(request) => self.take_request(request),
                Err(refusal) => self.refuse(refusal),
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        if let Some(line) = refusal.line() {
            self.say(&line);
        }
    }

    fn take_request(&mut self, request: rpc::Request) {
        let id = request.id;
        match request.ask {
            Ask::Call { method, request_key } => {
                let (reply, answer) = oneshot::channel();
                let answer = async move { Answer::Plain(id, answer.await.unwrap_or_else(|_| Err(stopping()))) };
                self.next = Some((Command::Call { method, request_key, reply }, answer.boxed()));
            }
            Ask::Watch { .. } if self.live.is_some() => self.refuse(Refusal::already_watching(id)),
            Ask::Watch { since } => {
                let (reply, answer) = oneshot::channel();
                let answer = async move { Answer::Watch(id, answer.await.unwrap_or_else(|_| Err(stopping()))) };
                self.next = Some((Command::Watch { since, reply }, answer.boxed()));
            }
        }
    }

    fn take_answer(&mut self, answer: Answer) {
        let (id, answer) = match answer {
            Answer::Plain(id, answer) => (id, answer),
            // Two watches asked for at once: the second is answered after the first.
            Answer::Watch(id, Ok(_)) if self.live.is_some() => return self.refuse(Refusal::already_watching(id)),
            Answer::Watch(id, Ok(subscription)) if self.deadline.is_none() => {
                self.replay = subscription.replay.into();
                self.live = Some(subscription.live);
                (id, Ok(subscription.snapshot))
            }
            Answer::Watch(id, Ok(_)) => (id, Err(stopping())),
            Answer::Watch(id, Err(failure)) => (id, Err(failure)),
        };
        if let Some(id) = id {
            self.say(&rpc::answer_line(&id, answer));
        }
    }

    fn feed_replay(&mut self) {
        while self.output.len() < PAUSE_BYTES
            && let Some(record) = self.replay.pop_front()
        {
            self.say(&rpc::event_line(&record));
        }
    }

    fn take_event(&mut self, event: Result<Arc<EventRecord>, RecvError>) {
        match event {
            Ok(record) => {
                self.say(&rpc::event_line(&record));
                if self.output.len() > MAX_BACKLOG_BYTES {
                    self.drop_lagging();
                }
            }
            Err(RecvError::Lagged(_)) => self.drop_lagging(),
            Err(RecvError::Closed) => self.close_within(FLUSH),
        }
    }

    /// Forgets the backlog, but for the line that is half written, and says why.
    fn drop_lagging(&mut self) {
        let rest_of_line = self.output.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        self.output.truncate(rest_of_line);
        self.say(&rpc::lagged_line());
        self.in_flight.clear();
        self.close_within(LAGGED_GRACE);
        self.squeeze_out();
    }

    /// Writes past a reader that stands still: the kernel's buffer, which is full, is made larger for the last line. Without
    /// room for it even so, the line waits for [`LAGGED_GRACE`] as any other would.
    fn squeeze_out(&mut self) {
        let stream: &UnixStream = self.write.as_ref();
        let grown = sockopt::socket_send_buffer_size(stream)
            .and_then(|bytes| sockopt::set_socket_send_buffer_size(stream, bytes));
        // Not through tokio, which would wait until half of the buffer is free.
        let sent = grown.and_then(|()| send(stream, &self.output, SendFlags::DONTWAIT | SendFlags::NOSIGNAL));
        match sent {
            Ok(bytes) => self.output.advance(bytes),
            Err(error) => tracing::debug!(%error, "a lagging client's last line waits"),
        }
    }
}

async fn live_event(live: &mut Option<broadcast::Receiver<Arc<EventRecord>>>) -> Result<Arc<EventRecord>, RecvError> {
    match live {
        Some(live) => live.recv().await,
        None => std::future::pending().await,
    }
}

fn stopping() -> Failure {
    Failure::new("stopping", "the daemon is stopping; ask again when it runs")
}
