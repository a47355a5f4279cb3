//! Sound cards, through cpal: finding, opening, and what the engine sees of an open one.
//!
//! PulseAudio's protocol comes first (PipeWire speaks it, too), then ALSA. `PULSE_SERVER` is honoured in its
//! `unix:/path` form, which is all that cpal's client speaks. Opening may take seconds: never on the audio thread.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use cpal::{
    BufferSize, ErrorKind, FromSample, HostId, Sample, SampleFormat, SizedSample, StreamConfig, SupportedBufferSize,
    traits::{DeviceTrait, HostTrait, StreamTrait},
};

use super::{
    BLOCK_SAMPLES, Block, Device, Role, SAMPLE_RATE_HZ,
    backend::{Capture, Playback, Waker},
    callback::{Gauge, InputEnd, OutputEnd},
    choice::is_default,
    lock,
    port::{Attempt, Opened},
    pulse,
    resample::{Inward, Outward},
    watch::{Listed, Seen, Sight},
};
use crate::config::Backend;

/// What `status` says of `backend = "pipewire"` where it was not built in.
pub const NO_PIPEWIRE: Option<&str> = if cfg!(feature = "pipewire") {
    None
} else {
    Some(
        "this build has no native PipeWire backend, so PulseAudio's protocol is used instead; set [audio] backend = \"auto\" to \
         be rid of this message",
    )
};
/// A sound server that does not answer for so long is treated as absent.
const PATIENCE: Duration = Duration::from_secs(2);
/// `PA_NATIVE_COOKIE_LENGTH` of PulseAudio's protocol.
const PULSE_COOKIE_BYTES: usize = 256;
/// Rings hold this share of a second (200 ms).
const RING_SHARE: u32 = 5;
/// A backlog of captured sound above this many blocks is skipped, so that the delay does not stay.
const MAX_BACKLOG_BLOCKS: usize = 8;
/// How PulseAudio and PipeWire call what listens to a speaker.
const MONITOR: &str = ".monitor";
/// The output ring follows the device's requests of the last one to two of these.
const PERIOD_WINDOW: Duration = Duration::from_secs(1);

/// What a look-around found.
pub struct Probe {
    pub backend: String,
    pub input: String,
    pub output: String,
    /// What is wrong with the whole sound system.
    pub problem: Option<String>,
    /// What is wrong with each of the devices.
    pub problems: BTreeMap<Role, String>,
}

/// Finds, but does not open, these devices; `ring` is that of the ring tone, where it has one of its own.
pub fn probe(backend: Backend, input: &str, output: &str, ring: Option<&str>) -> Probe {
    let host = match host(backend) {
        Ok(host) => host,
        Err(why) => {
            let (input, output) = (input.to_owned(), output.to_owned());
            return Probe { backend: "none".into(), input, output, problem: Some(why), problems: BTreeMap::new() };
        }
    };
    let mut problems = BTreeMap::new();
    let mut find = |role: Role, direction: Direction, wanted: &str| {
        let (name, problem) = match locate(&host, direction, wanted) {
            Ok((_, name, instead)) => (name, instead),
            Err(why) => (wanted.to_owned(), Some(why)),
        };
        problems.extend(problem.map(|problem| (role, problem)));
        name
    };
    let input = find(Role::Input, Direction::Input, input);
    let output = find(Role::Output, Direction::Output, output);
    ring.map(|ring| find(Role::Ring, Direction::Output, ring));
    Probe { backend: backend_name(&host).into(), input, output, problem: None, problems }
}

/// The devices of a sound system; none when there is no such system. May take for ever.
pub fn devices(backend: Backend) -> Vec<Device> {
    let Ok(host) = host(backend) else { return Vec::new() };
    let mut all = Vec::new();
    for direction in [Direction::Input, Direction::Output] {
        let default = direction.default_of(&host).map(|device| name(&device));
        for device in direction.devices_of(&host) {
            let name = name(&device);
            all.push(Device {
                description: description(&device),
                direction: direction.word().into(),
                default: default.as_ref() == Some(&name),
                monitor: direction == Direction::Input && name.ends_with(MONITOR),
                name,
            });
        }
    }
    // Microphones before what only listens to speakers.
    all.sort_by_key(|device| (device.direction.clone(), device.monitor));
    all
}

/// The devices that are there, without opening any; `None` when the sound system does not answer. May take seconds.
pub fn sight(backend: Backend) -> Option<Sight> {
    let at = Instant::now();
    let host = host(backend).ok()?;
    let listed = |device| Listed { name: name(&device), description: description(&device), number: 0 };
    let all: Vec<_> = host.devices().ok()?.map(listed).collect();
    let seen = |direction: Direction| {
        let default = direction.default_of(&host).map(|device| name(&device));
        Seen { at, devices: all.clone(), default, ours: Vec::new() }
    };
    Some(Sight { input: seen(Direction::Input), output: seen(Direction::Output) })
}

/// Opens a microphone.
pub fn open_input(backend: Backend, wanted: &str, waker: Waker) -> Attempt<dyn Capture> {
    let host = host(backend)?;
    let (device, name, instead) = locate(&host, Direction::Input, wanted)?;
    let fail = |why: String| format!("the microphone {name} does not open ({why}); see `telecon devices`");
    let chosen = Chosen::of(&device, Direction::Input).map_err(fail)?;
    let rate_hz = chosen.config.sample_rate;
    let (producer, consumer) = rtrb::RingBuffer::new((rate_hz / RING_SHARE) as usize);
    let broken = Broken::new(waker.clone(), format!("the microphone {name}"));
    let end =
        InputEnd { ring: producer, channels: chosen.config.channels.into(), waker, wake_at: (rate_hz / 100) as usize };
    let delay_us: Arc<AtomicU32> = Arc::default();
    let stream: Box<dyn Send> = if host.id() == HostId::PulseAudio && chosen.is_as_inside() {
        Box::new(pulse::record(&name, end, delay_us.clone(), broken.clone()).map_err(|error| fail(error.to_string()))?)
    } else {
        let stream = match chosen.format {
            SampleFormat::I16 => input_stream::<i16>(&device, chosen.config, end, broken.clone()),
            SampleFormat::I32 => input_stream::<i32>(&device, chosen.config, end, broken.clone()),
            _ => input_stream::<f32>(&device, chosen.config, end, broken.clone()),
        };
        started(stream).map_err(fail)?
    };
    let resampler = Inward::new(rate_hz).map_err(fail)?;
    let opened = Opened { backend: backend_name(&host).into(), device: name, instead };
    let (ring, fresh) = (consumer, true);
    Ok((Box::new(DeviceInput { _stream: stream, ring, delay_us, resampler, fresh, rate_hz, broken }), opened))
}

/// Opens a speaker.
pub fn open_output(backend: Backend, wanted: &str, waker: Waker) -> Attempt<dyn Playback> {
    let host = host(backend)?;
    let (device, name, instead) = locate(&host, Direction::Output, wanted)?;
    let fail = |why: String| format!("the speaker {name} does not open ({why}); see `telecon devices`");
    let chosen = Chosen::of(&device, Direction::Output).map_err(fail)?;
    let rate_hz = chosen.config.sample_rate;
    let broken = Broken::new(waker.clone(), format!("the speaker {name}"));
    let opened = |name| Opened { backend: backend_name(&host).into(), device: name, instead };
    if host.id() == HostId::PulseAudio && chosen.is_as_inside() {
        let speaker = pulse::play(&name, waker, broken).map_err(|error| fail(error.to_string()))?;
        return Ok((Box::new(speaker), opened(name)));
    }
    let (producer, consumer) = rtrb::RingBuffer::new((rate_hz / RING_SHARE) as usize);
    let gauge = Arc::new(Gauge::default());
    let channels = chosen.config.channels.into();
    let end = OutputEnd { ring: consumer, channels, waker, gauge: gauge.clone(), primed: false };
    let stream = match chosen.format {
        SampleFormat::I16 => output_stream::<i16>(&device, chosen.config, end, broken.clone()),
        SampleFormat::I32 => output_stream::<i32>(&device, chosen.config, end, broken.clone()),
        _ => output_stream::<f32>(&device, chosen.config, end, broken.clone()),
    };
    let stream = started(stream).map_err(fail)?;
    let resampler = Outward::new(rate_hz).map_err(fail)?;
    let output = DeviceOutput {
        _stream: stream,
        ring: producer,
        resampler,
        gauge,
        rate_hz,
        periods: [(rate_hz / 100) as usize; 2],
        window_ends: Instant::now() + PERIOD_WINDOW,
        broken,
    };
    Ok((Box::new(output), opened(name)))
}

struct DeviceInput {
    _stream: Box<dyn Send>,
    ring: rtrb::Consumer<f32>,
    /// How old the last sample is that comes into the ring, in µs, as the sound system says.
    delay_us: Arc<AtomicU32>,
    resampler: Inward,
    /// Nothing was read yet.
    fresh: bool,
    rate_hz: u32,
    broken: Arc<Broken>,
}

impl Capture for DeviceInput {
    fn read(&mut self, block: &mut Block, _now: Instant) -> bool {
        let (ready, needs) = (self.ring.slots(), self.resampler.needs());
        if ready < needs {
            return false;
        }
        // What was captured before anybody listened was said to nobody, or into the device before. And a block does not always need
        // as much: the converter may hold enough for the next one.
        let block_samples = (self.rate_hz / 100) as usize;
        let (most, left) = match std::mem::take(&mut self.fresh) {
            true => (needs, needs),
            false => (MAX_BACKLOG_BLOCKS * block_samples, needs.max(2 * block_samples)),
        };
        if ready > most
            && let Ok(old) = self.ring.read_chunk(ready - left)
        {
            old.commit_all();
        }
        let ring = &mut self.ring;
        self.resampler.block(block, |room| {
            let (_, _missing) = ring.pop_partial_slice(room);
        });
        true
    }

    fn due(&self) -> Option<Instant> {
        None
    }

    fn delay_ms(&self) -> f64 {
        let ring_ms = self.ring.slots() as f64 * 1000.0 / f64::from(self.rate_hz);
        ring_ms + f64::from(self.delay_us.load(Relaxed)) / 1000.0
    }

    fn flows(&self) -> bool {
        self.ring.slots() > 0
    }

    fn broken(&mut self) -> Option<String> {
        self.broken.take()
    }
}

struct DeviceOutput {
    _stream: Box<dyn Send>,
    ring: rtrb::Producer<f32>,
    resampler: Outward,
    gauge: Arc<Gauge>,
    rate_hz: u32,
    /// Largest request of this window and of the one before, in device samples.
    periods: [usize; 2],
    window_ends: Instant,
    broken: Arc<Broken>,
}

impl DeviceOutput {
    fn filled(&self) -> usize {
        self.ring.buffer().capacity() - self.ring.slots()
    }
}

impl Playback for DeviceOutput {
    fn wants(&mut self, now: Instant) -> bool {
        let asked = self.gauge.period.swap(0, Relaxed).min(self.ring.buffer().capacity() / 2);
        self.periods[0] = self.periods[0].max(asked);
        if now >= self.window_ends {
            self.periods = [asked, self.periods[0]];
            self.window_ends = now + PERIOD_WINDOW;
        }
        // One request's worth waits for the next callback, no more: what waits here is heard late.
        self.filled() < self.periods[0].max(self.periods[1])
    }

    fn play(&mut self, block: &Block) {
        // Full: the device has stopped asking, and what is lost is not missed.
        let (_, _lost) = self.ring.push_partial_slice(self.resampler.device_samples(block));
    }

    fn due(&self) -> Option<Instant> {
        None
    }

    fn delays_ms(&self) -> (f64, f64) {
        let ring_ms = self.filled() as f64 * 1000.0 / f64::from(self.rate_hz);
        (ring_ms, f64::from(self.gauge.delay_us.load(Relaxed)) / 1000.0)
    }

    /// It has asked for more than its first fill.
    fn flows(&self) -> bool {
        self.gauge.period.load(Relaxed) > 0
    }

    fn broken(&mut self) -> Option<String> {
        self.broken.take()
    }
}

/// What a stream's error callback leaves for the audio thread. What ends the stream is not real-time: a lock is fine there.
pub struct Broken {
    what: String,
    why: Mutex<Option<String>>,
    /// How often it was disturbed, and went on, since that was last said.
    disturbed: AtomicU32,
    waker: Waker,
}

impl Broken {
    /// Of a stream that works; `what` it is, in the user's words.
    pub fn new(waker: Waker, what: String) -> Arc<Self> {
        Arc::new(Self { what, why: Mutex::default(), disturbed: AtomicU32::new(0), waker })
    }

    fn report(&self, error: &cpal::Error) {
        match error.kind() {
            // The stream goes on, and this may be the thread that moves its sound.
            ErrorKind::Xrun | ErrorKind::DeviceChanged | ErrorKind::RealtimeDenied => {
                self.disturbed.fetch_add(1, Relaxed);
            }
            _ => self.stop(&error.to_string()),
        }
    }

    /// It does not work any more.
    pub fn stop(&self, why: &str) {
        let why = format!("{} stopped ({why}); while it is needed it is tried again every few seconds", self.what);
        *lock(&self.why) = Some(why);
        self.waker.wake();
    }

    /// Why it does not, once. Not for a callback: it may log.
    pub fn take(&self) -> Option<String> {
        let times = self.disturbed.swap(0, Relaxed);
        if times > 0 {
            tracing::debug!(
                what = self.what,
                times,
                "an audio stream was disturbed (too late, or changed) and goes on"
            );
        }
        lock(&self.why).take()
    }
}

/// A stream of cpal that runs.
fn started(stream: Result<cpal::Stream, cpal::Error>) -> Result<Box<dyn Send>, String> {
    let stream = stream.map_err(|error| error.to_string())?;
    stream.play().map_err(|error| error.to_string())?;
    Ok(Box::new(stream))
}

fn input_stream<T: SizedSample>(
    device: &cpal::Device,
    config: StreamConfig,
    mut end: InputEnd,
    broken: Arc<Broken>,
) -> Result<cpal::Stream, cpal::Error>
where
    f32: FromSample<T>,
{
    device.build_input_stream::<T, _, _>(
        config,
        move |data, _| end.captured(data),
        move |error| broken.report(&error),
        Some(PATIENCE),
    )
}

fn output_stream<T: SizedSample + Sample + FromSample<f32>>(
    device: &cpal::Device,
    config: StreamConfig,
    mut end: OutputEnd,
    broken: Arc<Broken>,
) -> Result<cpal::Stream, cpal::Error> {
    device.build_output_stream::<T, _, _>(
        config,
        move |data, info| {
            let stamp = info.timestamp();
            let delay = stamp.playback.saturating_duration_since(stamp.callback);
            end.wanted(data, u32::try_from(delay.as_micros()).unwrap_or(u32::MAX));
        },
        move |error| broken.report(&error),
        Some(PATIENCE),
    )
}

/// How a device is opened.
struct Chosen {
    config: StreamConfig,
    format: SampleFormat,
}

impl Chosen {
    /// 48 kHz mono float where the device (or its server) converts, its own default otherwise; 10 ms periods.
    fn of(device: &cpal::Device, direction: Direction) -> Result<Self, String> {
        let supported = direction.configs_of(device)?;
        let wanted = supported.iter().find(|range| {
            let rates = range.min_sample_rate()..=range.max_sample_rate();
            range.channels() == 1 && range.sample_format() == SampleFormat::F32 && rates.contains(&SAMPLE_RATE_HZ)
        });
        let config = match wanted {
            Some(range) => (*range).with_sample_rate(SAMPLE_RATE_HZ),
            None => direction.default_config_of(device)?,
        };
        let format = match config.sample_format() {
            format @ (SampleFormat::F32 | SampleFormat::I16 | SampleFormat::I32) => format,
            // ALSA's plug layer and PulseAudio convert floats.
            _ => SampleFormat::F32,
        };
        let rate_hz = config.sample_rate();
        let period = rate_hz * BLOCK_SAMPLES as u32 / SAMPLE_RATE_HZ;
        let period = match config.buffer_size() {
            SupportedBufferSize::Range { min, max } => period.clamp(*min, (*max).max(*min)),
            SupportedBufferSize::Unknown => period,
        };
        // Never the default size: PulseAudio would hold two seconds.
        let buffer_size = BufferSize::Fixed(period);
        Ok(Self { config: StreamConfig { channels: config.channels(), sample_rate: rate_hz, buffer_size }, format })
    }

    /// Nothing is to be converted.
    fn is_as_inside(&self) -> bool {
        self.format == SampleFormat::F32 && self.config.channels == 1 && self.config.sample_rate == SAMPLE_RATE_HZ
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Input,
    Output,
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Output => "output",
        }
    }

    fn default_of(self, host: &cpal::Host) -> Option<cpal::Device> {
        match self {
            Self::Input => host.default_input_device(),
            Self::Output => host.default_output_device(),
        }
    }

    fn devices_of(self, host: &cpal::Host) -> Vec<cpal::Device> {
        match self {
            Self::Input => host.input_devices().map(Vec::from_iter).unwrap_or_default(),
            Self::Output => host.output_devices().map(Vec::from_iter).unwrap_or_default(),
        }
    }

    fn configs_of(self, device: &cpal::Device) -> Result<Vec<cpal::SupportedStreamConfigRange>, String> {
        match self {
            Self::Input => device.supported_input_configs().map(Vec::from_iter),
            Self::Output => device.supported_output_configs().map(Vec::from_iter),
        }
        .map_err(|error| error.to_string())
    }

    fn default_config_of(self, device: &cpal::Device) -> Result<cpal::SupportedStreamConfig, String> {
        match self {
            Self::Input => device.default_input_config(),
            Self::Output => device.default_output_config(),
        }
        .map_err(|error| error.to_string())
    }
}

/// What is wanted, or the default as long as that is not there; its name, and whether it stands in.
fn locate(
    host: &cpal::Host,
    direction: Direction,
    wanted: &str,
) -> Result<(cpal::Device, String, Option<String>), String> {
    let missing = match find(host, direction, wanted) {
        Ok(device) => return Ok((device.clone(), name(&device), None)),
        Err(why) => why,
    };
    let device = direction.default_of(host).ok_or_else(|| missing.clone())?;
    let name = name(&device);
    let instead = format!("{missing}; {name} is used until then");
    Ok((device, name, Some(instead)))
}

/// The sound system that the configuration asks for.
fn host(backend: Backend) -> Result<Arc<cpal::Host>, String> {
    let alsa = || {
        let host = cpal::host_from_id(HostId::Alsa);
        host.map(Arc::new)
            .map_err(|error| format!("there is no sound system ({error}); install PipeWire, PulseAudio or ALSA"))
    };
    match backend {
        Backend::Pulseaudio => pulse_host(),
        Backend::Alsa => alsa(),
        #[cfg(feature = "pipewire")]
        Backend::Pipewire => cpal::host_from_id(HostId::PipeWire).map(Arc::new).map_err(|error| {
            format!("PipeWire does not answer ({error}); start it, or set [audio] backend to \"auto\"")
        }),
        #[cfg(not(feature = "pipewire"))]
        Backend::Pipewire => pulse_host().or_else(|_| alsa()),
        Backend::Auto | Backend::File | Backend::Null => pulse_host().or_else(|_| alsa()),
    }
}

/// PulseAudio, by one connection as long as it answers: cpal's client notices only when something comes that nobody has it any
/// more, so that each one would stay, and a server takes 64.
fn pulse_host() -> Result<Arc<cpal::Host>, String> {
    static KEPT: Mutex<Option<Arc<cpal::Host>>> = Mutex::new(None);
    let kept = || lock(&KEPT);
    // Asking may take long: not under the lock.
    let known = kept().clone();
    if let Some(host) = known.filter(|host| host.devices().is_ok()) {
        return Ok(host);
    }
    make_pulse_cookie();
    let host = cpal::host_from_id(HostId::PulseAudio).map(Arc::new).map_err(|error| {
        let form = match std::env::var("PULSE_SERVER") {
            Ok(address) if !address.starts_with("unix:") => "; PULSE_SERVER must have the form unix:/path",
            Ok(_) | Err(_) => "",
        };
        format!(
            "no PulseAudio or PipeWire server answers ({error}{form}); start one, or set [audio] backend to \"alsa\""
        )
    })?;
    *kept() = Some(host.clone());
    Ok(host)
}

/// PulseAudio drops clients that send no cookie, even where it asks for none, so libpulse makes one when there is none;
/// cpal's client does not.
fn make_pulse_cookie() {
    let Some(home) = std::env::home_dir() else { return };
    let named = std::env::var_os("PULSE_COOKIE").map(PathBuf::from);
    let cookie = home.join(".config/pulse/cookie");
    let known = [named, Some(cookie.clone()), Some(home.join(".pulse-cookie"))];
    if known.into_iter().flatten().any(|path| path.exists()) {
        return;
    }
    let write = || {
        std::fs::create_dir_all(home.join(".config/pulse"))?;
        let mut bytes = [0_u8; PULSE_COOKIE_BYTES];
        rand::fill(&mut bytes[..]);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&cookie)?;
        file.write_all(&bytes)
    };
    if let Err(error) = write() {
        tracing::debug!(%error, "no PulseAudio cookie");
    }
}

fn backend_name(host: &cpal::Host) -> &'static str {
    match host.id() {
        #[cfg(feature = "pipewire")]
        HostId::PipeWire => "pipewire",
        HostId::PulseAudio => "pulseaudio",
        HostId::Alsa => "alsa",
    }
}

/// `default`, or the device whose name or description it is.
fn find(host: &cpal::Host, direction: Direction, wanted: &str) -> Result<cpal::Device, String> {
    let what = match direction {
        Direction::Input => "microphone",
        Direction::Output => "speaker",
    };
    if is_default(wanted) {
        return direction.default_of(host).ok_or_else(|| format!("there is no {what}; plug one in"));
    }
    direction
        .devices_of(host)
        .into_iter()
        .find(|device| name(device) == wanted || description(device) == wanted)
        .ok_or_else(|| {
            let key = direction.word();
            format!(
                "there is no {what} called {wanted:?}; plug it in, or choose another with `telecon device {key} NAME`"
            )
        })
}

fn name(device: &cpal::Device) -> String {
    device.id().map_or_else(|_| description(device), |id| id.id().to_owned())
}

fn description(device: &cpal::Device) -> String {
    device.description().map_or_else(|_| "unnamed".into(), |description| description.name().to_owned())
}

#[cfg(test)]
mod tests;
