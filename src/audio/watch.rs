//! Looks at which sound devices there are while something is open: whether one vanished, came back, became the default, or
//! whether the sound server has put a stream elsewhere.
//!
//! PulseAudio tells when something changes, and is not asked otherwise; of other systems the list is read every two seconds.
//! A thread of its own does it, since a sound system may hang; it ends with [`Watch`].

use std::{
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    time::{Duration, Instant},
};

use super::{backend::Waker, device, lock, pulse::LookOut};
use crate::config::Backend;

/// How often the list is read where nobody tells.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// What is told while a port goes over to another device does not count for it, and it may take five seconds for that. So it is
/// looked at once more so long after a change.
const AFTERMATH: Duration = Duration::from_secs(6);

/// What was there at one moment, of one direction.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Not later than this it was so.
    pub at: Instant,
    /// All devices.
    pub devices: Vec<Listed>,
    /// The name of the default one.
    pub default: Option<String>,
    /// Devices that streams of this process are connected to, as far as the sound system tells.
    pub ours: Vec<String>,
}

/// A device that is there.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Stays the same when it is plugged in again.
    pub name: String,
    /// For people.
    pub description: String,
    /// Another one each time that it is plugged in, where the sound system tells.
    pub number: u32,
}

/// What was there at one moment.
#[derive(Debug, Clone)]
pub struct Sight {
    /// Microphones.
    pub input: Seen,
    /// Speakers.
    pub output: Seen,
}

impl Seen {
    /// The device with this name or description, or the default by that word.
    pub fn find(&self, wanted: &str) -> Option<&str> {
        if super::choice::is_default(wanted) {
            return self.default.as_deref();
        }
        let found = self.devices.iter().find(|device| device.name == wanted || device.description == wanted);
        found.map(|device| device.name.as_str())
    }

    /// The number of the device of this name, when there is one.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.devices.iter().find(|device| device.name == name).map(|device| device.number)
    }

    /// Where the one stream is that should be at `open`; `None` when it is there, or nobody knows.
    pub fn moved_from(&self, open: &str) -> Option<&str> {
        match &self.ours[..] {
            [at] if at != open => Some(at),
            _ => None,
        }
    }
}

/// The look-out. Dropping it ends its thread.
pub struct Watch {
    sights: Receiver<Sight>,
    /// Dropped, it ends the waiting of a thread that reads lists, and tells the other that it is not wanted any more.
    stop: Option<SyncSender<()>>,
    /// Shut down, it ends the waiting of a thread that is told.
    ear: Ear,
}

type Ear = Arc<Mutex<Option<UnixStream>>>;

impl Watch {
    /// Begins to look; `waker` is woken by every sight.
    pub fn begin(backend: Backend, waker: Waker) -> Self {
        let (send, sights) = sync_channel(1);
        let (stop, stopped) = sync_channel(0);
        let ear = Ear::default();
        let post = Post { backend, waker, sights: send, stopped, ear: ear.clone() };
        if let Err(error) = std::thread::Builder::new().name("audio-watch".into()).spawn(move || post.stand()) {
            tracing::error!(%error, "no thread to look at sound devices");
        }
        Self { sights, stop: Some(stop), ear }
    }

    /// The latest sight, when there is a new one.
    pub fn latest(&mut self) -> Option<Sight> {
        self.sights.try_iter().last()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(ear) = &*lock(&self.ear) {
            // It may be closed already.
            drop(ear.shutdown(std::net::Shutdown::Both));
        }
    }
}

/// What the look-out's thread owns.
struct Post {
    backend: Backend,
    waker: Waker,
    sights: SyncSender<Sight>,
    stopped: Receiver<()>,
    ear: Ear,
}

impl Post {
    fn stand(self) {
        let mut ended = false;
        while !ended {
            let pulse = match self.backend {
                Backend::Auto | Backend::Pulseaudio => LookOut::open().ok(),
                Backend::Pipewire if device::NO_PIPEWIRE.is_some() => LookOut::open().ok(),
                Backend::Pipewire | Backend::Alsa | Backend::File | Backend::Null => None,
            };
            ended = match pulse {
                Some(pulse) => self.be_told(pulse),
                None => self.read_list(),
            };
            ended = ended || self.stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Disconnected);
        }
    }

    /// Until the server is gone; true when nobody wants to know any more.
    fn be_told(&self, mut pulse: LookOut) -> bool {
        self.lend(pulse.ear().ok());
        let ended = self.listen(&mut pulse);
        self.lend(None);
        ended
    }

    fn lend(&self, ear: Option<UnixStream>) {
        *lock(&self.ear) = ear;
    }

    fn listen(&self, pulse: &mut LookOut) -> bool {
        let mut changed = true;
        loop {
            let waited = match pulse.look() {
                Ok(sight) => {
                    if !self.report(sight) {
                        return true;
                    }
                    pulse.wait(changed.then_some(AFTERMATH))
                }
                Err(error) => Err(error),
            };
            changed = match waited {
                Ok(changed) => changed,
                Err(_) if self.is_unwanted() => return true,
                Err(error) => {
                    tracing::debug!(%error, "the sound server does not tell any more");
                    return self.read_list();
                }
            };
        }
    }

    /// Nobody wants to know any more.
    fn is_unwanted(&self) -> bool {
        self.stopped.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// True when nobody wants to know any more.
    fn read_list(&self) -> bool {
        device::sight(self.backend).is_some_and(|sight| !self.report(sight))
    }

    /// False when nobody wants to know any more.
    fn report(&self, sight: Sight) -> bool {
        let sent = self.sights.send(sight).is_ok();
        self.waker.wake();
        sent
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_look_out_that_is_woken_since_it_is_not_wanted_any_more_knows_it() {
        let (ear, mut server) = UnixStream::pair().unwrap();
        let (send, sights) = sync_channel(1);
        let (stop, stopped) = sync_channel(0);
        let ear: Ear = Arc::new(Mutex::new(Some(ear)));
        let watch = Watch { sights, stop: Some(stop), ear: ear.clone() };
        let post = Post { backend: Backend::Null, waker: Waker::here(), sights: send, stopped, ear };
        assert!(!post.is_unwanted());
        let woken = std::thread::spawn(move || {
            assert_eq!(server.read(&mut [0]).unwrap(), 0, "the end");
            post.is_unwanted()
        });
        drop(watch);
        assert!(woken.join().unwrap());
    }
}
