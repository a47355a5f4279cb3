//! A readable account of a run, kept only when somebody will read it.

use std::{collections::VecDeque, fmt::Write};

use crate::proto::{id::Did, signal::Body};

use super::seal::Sealed;

/// Lines that are kept; older ones are dropped.
const KEPT: usize = 20_000;

#[derive(Debug, Default)]
pub struct Trace {
    lines: Option<VecDeque<String>>,
}

impl Trace {
    pub fn off() -> Self {
        Self::default()
    }

    pub fn on() -> Self {
        Self { lines: Some(VecDeque::new()) }
    }

    pub fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// The text is only made when the trace is on.
    pub fn line(&mut self, now_us: u64, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            if lines.len() == KEPT {
                lines.pop_front();
            }
            lines.push_back(format!("{:>11.4} {}", now_us as f64 / 1e6, text()));
        }
    }

    /// The last lines, one a line, with DIDs replaced by their nodes' names.
    pub fn tail(&self, count: usize, dids: &[Did]) -> String {
        let mut tail = String::new();
        let lines = self.lines.iter().flatten();
        for line in lines.skip(self.lines.as_ref().map_or(0, |lines| lines.len().saturating_sub(count))) {
            let mut line = line.clone();
            for (node, did) in dids.iter().enumerate() {
                line = line.replace(did.as_str(), &format!("n{node}"));
            }
            let _ = writeln!(tail, "{line}");
        }
        tail
    }
}

/// What a sealed message says, in a few words.
pub fn describe(sealed: &Sealed) -> String {
    let signal = &sealed.outgoing.signal;
    let id = signal.id.0;
    let body = match &signal.body {
        Body::Offer(offer) => format!("Offer of {} among {:?}", offer.ticket.call, offer.participants),
        Body::Cancel(reason) => format!("Cancel {reason:?}"),
        Body::Answered(_) => "Answered".into(),
        Body::Ringing => "Ringing".into(),
        Body::Decline(reason) => format!("Decline {reason:?}"),
        Body::Join(presence) => format!("Join #{}", presence.instance.number),
        Body::Hello(presence) => format!("Hello #{}", presence.instance.number),
        Body::Leave(instance) => format!("Leave #{}", instance.number),
        Body::Sdp(sdp) => format!("{sdp:?} {}", sdp.sdp),
        Body::Ice(ice) => format!("{ice:?}"),
        Body::Restart(attempt) => format!("Restart after {attempt}"),
        Body::State(state) => format!("State {state:?}"),
        Body::Ack(of) => format!("Ack of {:02x}{:02x}", of.0[0], of.0[1]),
        Body::Unknown(kind) => format!("Unknown {kind}"),
    };
    let to = sealed.outgoing.to.as_ref().map_or("all", |did| did.as_str());
    format!("[{:02x}{:02x}] {body} ({:?} to {to})", id[0], id[1], sealed.outgoing.sealing)
}
