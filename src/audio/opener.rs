//! Who opens a port for which backend, which device each one is to have, and who looks at what there is.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, sync_channel},
    },
    time::Instant,
};

use super::{
    Role, Shared, Sound,
    backend::{self, Capture, Nowhere, Playback, Silence},
    choice::Choice,
    device, file, lock,
    port::{Attempt, Opened, Port},
    watch::{Sight, Watch},
};
use crate::config::{self, Backend};

/// Opens ports as the configuration and the user say.
pub struct Opener {
    config: config::Audio,
    input: Choice,
    output: Choice,
    ring: Choice,
    waker: backend::Waker,
    clip: Arc<KeptClip>,
    probe: Option<Receiver<device::Probe>>,
    /// What is wrong with the sound system, until a port says so itself…
    problem: Option<String>,
    /// …and with each device, until its port does.
    untried: BTreeMap<Role, String>,
    watch: Option<Watch>,
    sight: Option<Sight>,
}

impl Opener {
    /// Looks for what the configuration names, without opening it.
    pub fn new(config: config::Audio, waker: backend::Waker) -> Self {
        let [input, output, ring] = [&config.input, &config.output, &config.ring_output].map(|name| Choice::new(name));
        let clip = Arc::new(KeptClip::new(&config.input_file));
        let (probe, watch, sight) = (None, None, None);
        let (problem, untried) = (None, BTreeMap::new());
        let mut opener = Self { config, input, output, ring, waker, clip, probe, problem, untried, watch, sight };
        match opener.config.backend {
            Backend::File => opener.begin_load(),
            Backend::Null => {}
            Backend::Auto | Backend::Pipewire | Backend::Pulseaudio | Backend::Alsa => opener.begin_probe(),
        }
        opener
    }

    /// What the configuration asks for and cannot have, as far as no port says so.
    pub fn problems(&self) -> Vec<String> {
        let build = match self.config.backend {
            Backend::Pipewire => device::NO_PIPEWIRE.map(String::from),
            Backend::Auto | Backend::Pulseaudio | Backend::Alsa | Backend::File | Backend::Null => None,
        };
        let system = build.into_iter().chain(self.problem.clone());
        let untried = self.untried.iter().filter(|(role, _)| **role != Role::Ring || self.rings_apart());
        system.chain(untried.map(|(_, problem)| problem.clone())).collect()
    }

    /// Takes over what a look-around found; true when that was news.
    pub fn take_probe(&mut self, shared: &Shared) -> bool {
        let Some(Ok(probe)) = self.probe.as_ref().map(Receiver::try_recv) else { return false };
        self.probe = None;
        (self.problem, self.untried) = (probe.problem, probe.problems);
        let mut board = shared.board();
        board.status.backend = probe.backend;
        board.status.input = probe.input;
        board.status.output = probe.output;
        true
    }

    /// From here on that port speaks for itself.
    pub fn answered(&mut self, role: Role) {
        self.problem = None;
        self.untried.remove(&role);
    }

    /// The user chose another device for this; true when what is open has to go over to it.
    pub fn choose(&mut self, role: Role, name: &str) -> bool {
        let choice = Choice::new(name);
        match role {
            Role::Input => self.input = choice,
            Role::Output => self.output = choice,
            Role::Ring => self.ring = choice,
        }
        self.untried.remove(&role);
        if self.has_devices() {
            self.begin_probe();
        }
        self.has_devices()
    }

    /// Finds again what is configured and chosen, unless that is under way.
    pub fn look_again(&mut self) {
        if self.has_devices() && self.probe.is_none() {
            self.begin_probe();
        }
    }

    /// The ring tone has a device of its own.
    pub fn rings_apart(&self) -> bool {
        self.has_devices() && !self.ring.name().is_empty() && !self.ring.is_chosen_like(&self.output)
    }

    /// What the ring tone's own device is called, where it has one.
    pub fn ring_name(&self, open: Option<Opened>) -> Option<String> {
        let chosen = || self.ring.name().to_owned();
        self.rings_apart().then(|| open.map_or_else(chosen, |open| open.device))
    }

    /// Calls may be heard ringing.
    pub fn lets_ring(&self) -> bool {
        self.config.ring_sound
    }

    /// Callers may hear it ring.
    pub fn lets_ring_back(&self) -> bool {
        self.config.sounds && self.has_devices()
    }

    /// Not where a file is to hold what others said, and nothing else.
    pub fn lets_sound(&self, sound: Sound) -> bool {
        match sound {
            Sound::Joined | Sound::Left | Sound::Busy => self.config.sounds && self.has_devices(),
            Sound::Test => true,
        }
    }

    /// Keeps an eye on the sound system as long as something is open; true when there is news from there.
    pub fn watch(&mut self, wanted: bool) -> bool {
        if !wanted || !self.has_devices() {
            (self.watch, self.sight) = (None, None);
            [&mut self.input, &mut self.output, &mut self.ring].into_iter().for_each(Choice::forget_move);
            return false;
        }
        let (backend, waker) = (self.config.backend, &self.waker);
        let watch = self.watch.get_or_insert_with(|| Watch::begin(backend, waker.clone()));
        let news = watch.latest();
        let is_news = news.is_some();
        self.sight = news.or(self.sight.take());
        is_news
    }

    /// Lets the ports go after what was seen; true when the status changed.
    pub fn lead(
        &mut self,
        input: &mut Port<dyn Capture>,
        output: &mut Port<dyn Playback>,
        ring: &mut Port<dyn Playback>,
        now: Instant,
    ) -> bool {
        let Some(sight) = self.sight.take() else { return false };
        let Self { config, waker, .. } = self;
        let changed = [
            input.follow(&mut self.input, &sight.input, now, |choice| open_input(config, choice, waker)),
            output.follow(&mut self.output, &sight.output, now, |choice| open_output(config, choice, waker)),
            ring.follow(&mut self.ring, &sight.output, now, |choice| open_output(config, choice, waker)),
        ];
        self.sight = Some(sight);
        changed.contains(&true)
    }

    /// Begins to open the microphone.
    pub fn input(&mut self) -> Receiver<Attempt<dyn Capture>> {
        self.probe = None;
        match self.config.backend {
            Backend::Null => ready(Ok((Box::new(Silence::new()), named("null", "silence")))),
            Backend::File => self.open_file_input(),
            Backend::Auto | Backend::Pipewire | Backend::Pulseaudio | Backend::Alsa => {
                open_input(&self.config, &self.input, &self.waker)
            }
        }
    }

    /// Begins to open the speaker.
    pub fn output(&mut self) -> Receiver<Attempt<dyn Playback>> {
        self.probe = None;
        match self.config.backend {
            Backend::Null => ready(Ok((Box::new(Nowhere::new()), named("null", "nowhere")))),
            Backend::File => ready(self.open_file_output()),
            Backend::Auto | Backend::Pipewire | Backend::Pulseaudio | Backend::Alsa => {
                open_output(&self.config, &self.output, &self.waker)
            }
        }
    }

    /// Begins to open the device of the ring tone, where it has one of its own.
    pub fn ring(&mut self) -> Receiver<Attempt<dyn Playback>> {
        self.probe = None;
        open_output(&self.config, &self.ring, &self.waker)
    }

    fn has_devices(&self) -> bool {
        match self.config.backend {
            Backend::File | Backend::Null => false,
            Backend::Auto | Backend::Pipewire | Backend::Pulseaudio | Backend::Alsa => true,
        }
    }

    fn begin_probe(&mut self) {
        let (backend, waker) = (self.config.backend, self.waker.clone());
        let [input, output, ring] = [&self.input, &self.output, &self.ring].map(|choice| choice.name().to_owned());
        let ring = self.rings_apart().then_some(ring);
        let probe = move || device::probe(backend, &input, &output, ring.as_deref());
        self.probe = Some(in_background("audio-probe", probe, waker));
    }

    /// Reads the clip before it is needed, and learns what is wrong with it.
    fn begin_load(&mut self) {
        if self.config.input_file.is_empty() {
            return;
        }
        let (clip, waker) = (self.clip.clone(), self.waker.clone());
        let (input, output) = (self.config.input_file.clone(), self.config.output_file.clone());
        let load = move || device::Probe {
            backend: "file".into(),
            input,
            output,
            problem: None,
            problems: clip.load().err().map(|problem| (Role::Input, problem)).into_iter().collect(),
        };
        self.probe = Some(in_background("audio-load", load, waker));
    }

    fn open_file_input(&self) -> Receiver<Attempt<dyn Capture>> {
        if self.config.input_file.is_empty() {
            return ready(Ok((Box::new(Silence::new()), named("file", "silence"))));
        }
        let name = named("file", &self.config.input_file);
        if let Some(clip) = self.clip.loaded() {
            return ready(Ok((Box::new(file::FileInput::new(clip)), name)));
        }
        let clip = self.clip.clone();
        let open = move || -> Attempt<dyn Capture> { Ok((Box::new(file::FileInput::new(clip.load()?)), name)) };
        in_background("audio-load", open, self.waker.clone())
    }

    fn open_file_output(&mut self) -> Attempt<dyn Playback> {
        if self.config.output_file.is_empty() {
            return Ok((Box::new(Nowhere::new()), named("file", "nowhere")));
        }
        let output = file::FileOutput::open(&PathBuf::from(&self.config.output_file))?;
        Ok((Box::new(output), named("file", &self.config.output_file)))
    }
}

/// The clip of the `file` backend. To decode and resample it takes longer than a real-time thread may run without a rest.
struct KeptClip {
    path: PathBuf,
    /// Held while it is read.
    clip: Mutex<Option<file::Clip>>,
}

impl KeptClip {
    fn new(path: &str) -> Self {
        Self { path: path.into(), clip: Mutex::default() }
    }

    /// Without waiting.
    fn loaded(&self) -> Option<file::Clip> {
        self.clip.try_lock().ok()?.clone()
    }

    /// Read once; when that failed, again with the next attempt. Not for the audio thread.
    fn load(&self) -> Result<file::Clip, String> {
        // There is a whole clip in it or none.
        let mut kept = lock(&self.clip);
        if let Some(clip) = &*kept {
            return Ok(clip.clone());
        }
        let clip = file::read_clip(&self.path)?;
        *kept = Some(clip.clone());
        Ok(clip)
    }
}

fn open_input(config: &config::Audio, choice: &Choice, waker: &backend::Waker) -> Receiver<Attempt<dyn Capture>> {
    let (backend, name, own) = (config.backend, choice.name().to_owned(), waker.clone());
    in_background("audio-open-input", move || device::open_input(backend, &name, own), waker.clone())
}

fn open_output(config: &config::Audio, choice: &Choice, waker: &backend::Waker) -> Receiver<Attempt<dyn Playback>> {
    let (backend, name, own) = (config.backend, choice.name().to_owned(), waker.clone());
    in_background("audio-open-output", move || device::open_output(backend, &name, own), waker.clone())
}

/// The name of a port that is what was asked for.
pub fn named(backend: &str, device: &str) -> Opened {
    Opened { backend: backend.into(), device: device.into(), instead: None }
}

fn ready<T>(value: T) -> Receiver<T> {
    let (sender, receiver) = sync_channel(1);
    // The receiver is right here and the channel holds one.
    drop(sender.send(value));
    receiver
}

/// Runs `work` on a thread of its own and wakes the audio thread when it is done.
fn in_background<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
    waker: backend::Waker,
) -> Receiver<T> {
    let (sender, receiver) = sync_channel(1);
    let run = move || {
        // Nobody may wait any more: then the device closes here.
        drop(sender.send(work()));
        waker.wake();
    };
    if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(run) {
        tracing::error!(%error, "no thread to open a sound device");
    }
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sounds_can_be_switched_off_but_for_the_one_that_is_asked_for() {
        for sounds in [true, false] {
            let config = config::Audio { backend: Backend::Null, sounds, ..config::Audio::default() };
            let mut opener = Opener::new(config, backend::Waker::here());
            opener.config.backend = Backend::Alsa;
            let lets = [Sound::Joined, Sound::Left, Sound::Busy, Sound::Test].map(|sound| opener.lets_sound(sound));
            assert_eq!((lets, opener.lets_ring_back()), ([sounds, sounds, sounds, true], sounds));
        }
    }

    #[test]
    fn what_is_wrong_with_each_device_is_said_until_it_was_tried_or_another_one_is_chosen() {
        let config = config::Audio { backend: Backend::Null, ring_output: "bell".into(), ..config::Audio::default() };
        let shared = Shared::new(&config);
        let mut opener = Opener::new(config, backend::Waker::here());
        opener.config.backend = Backend::Alsa;
        let roles = [(Role::Input, "no microphone"), (Role::Output, "no speaker"), (Role::Ring, "no bell")];
        let look_around = |opener: &mut Opener| {
            let problems = roles.map(|(role, problem)| (role, problem.to_owned())).into();
            let (backend, input, output) = ("alsa".into(), "mic".into(), "speaker".into());
            let problem = Some("no server".into());
            opener.probe = Some(ready(device::Probe { backend, input, output, problem, problems }));
            assert!(opener.take_probe(&shared));
            assert_eq!(opener.problems(), ["no server", "no microphone", "no speaker", "no bell"]);
        };
        look_around(&mut opener);
        opener.answered(Role::Input);
        assert_eq!(opener.problems(), ["no speaker", "no bell"], "nobody has tried these");
        opener.answered(Role::Output);
        opener.answered(Role::Ring);
        assert!(opener.problems().is_empty());
        look_around(&mut opener);
        assert!(opener.choose(Role::Ring, "gong"));
        assert_eq!(opener.problems(), ["no server", "no microphone", "no speaker"]);
    }
}
