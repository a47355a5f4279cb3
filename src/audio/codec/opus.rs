//! Safe handles of libopus: the encoder, the decoder and what it keeps of deep redundancy (DRED). The crate's only `unsafe`.
//!
//! It says what libopus can do, and nothing of how telecon uses it: that is [`super`].
#![expect(unsafe_code, reason = "libopus is a C library; no safe crate reaches its decoder complexity and its DRED")]

use std::{
    ffi::{CStr, c_int},
    fmt,
    ptr::{self, NonNull},
};

use opusic_sys as sys;

use super::super::SAMPLE_RATE_HZ;

const HZ: i32 = SAMPLE_RATE_HZ.cast_signed();
const MONO: c_int = 1;

/// What libopus refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error(c_int);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: it takes any number and returns a constant string that ends with zero.
        let text = unsafe { CStr::from_ptr(sys::opus_strerror(self.0)) };
        write!(f, "libopus: {}", text.to_string_lossy())
    }
}

impl std::error::Error for Error {}

/// A result of libopus: below zero an error, else a length.
fn check(result: c_int) -> Result<usize, Error> {
    usize::try_from(result).map_err(|_| Error(result))
}

/// A length for libopus. Whoever asks for more than it can count gets what fits.
fn length(of: usize) -> i32 {
    i32::try_from(of).unwrap_or(i32::MAX)
}

/// The version of libopus, such as `libopus 1.6.1`.
pub fn version() -> String {
    // SAFETY: a constant string that ends with zero.
    unsafe { CStr::from_ptr(sys::opus_get_version_string()) }.to_string_lossy().into_owned()
}

/// Samples in a packet at 48 kHz.
pub fn packet_samples(packet: &[u8]) -> Result<usize, Error> {
    // SAFETY: it reads at most as many bytes as it is told, and none of an empty packet.
    check(unsafe { sys::opus_packet_get_nb_samples(packet.as_ptr(), length(packet.len()), HZ) })
}

/// Takes out of a packet what is no sound of its own time: padding and deep redundancy.
pub fn unpad(packet: &mut Vec<u8>) -> Result<(), Error> {
    // SAFETY: it reads and writes at most as many bytes as it is told, which are the packet's own.
    let left = check(unsafe { sys::opus_packet_unpad(packet.as_mut_ptr(), length(packet.len())) })?;
    packet.truncate(left);
    Ok(())
}

/// A state of libopus that is owned here alone.
struct Handle<T> {
    state: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

// SAFETY: the states hold plain memory, bound to no thread; `Handle` is not `Sync`, and every call that changes one has it
// to itself.
unsafe impl<T> Send for Handle<T> {}

impl<T> Handle<T> {
    /// Takes what `create` returned, unless that is nothing; `destroy` is the function that frees it.
    fn new(create: impl FnOnce(&mut c_int) -> *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Self, Error> {
        let mut error = sys::OPUS_ALLOC_FAIL;
        match NonNull::new(create(&mut error)) {
            Some(state) => Ok(Self { state, destroy }),
            None => Err(Error(error)),
        }
    }

    fn as_ptr(&mut self) -> *mut T {
        self.state.as_ptr()
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        // SAFETY: `new` was given the two functions that belong together, and nobody else has the state.
        unsafe { (self.destroy)(self.state.as_ptr()) }
    }
}

/// What can be set of an encoder; each takes a whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Control {
    /// In bits per second.
    Bitrate = sys::OPUS_SET_BITRATE_REQUEST,
    /// 1: variable; 0: every packet has the same size.
    VariableBitrate = sys::OPUS_SET_VBR_REQUEST,
    /// Of the encoder or the decoder, 0 to 10.
    Complexity = sys::OPUS_SET_COMPLEXITY_REQUEST,
    /// A kind of signal, such as [`VOICE`].
    Signal = sys::OPUS_SET_SIGNAL_REQUEST,
    /// 1: the packet holds its predecessor at a lower bitrate as well.
    InbandFec = sys::OPUS_SET_INBAND_FEC_REQUEST,
    /// In percent, 0 to 100.
    ExpectedLoss = sys::OPUS_SET_PACKET_LOSS_PERC_REQUEST,
    /// 1: hardly anything is sent while nobody speaks.
    Dtx = sys::OPUS_SET_DTX_REQUEST,
    /// Deep redundancy, in units of 10 ms, 0 to 104.
    DredDuration = sys::OPUS_SET_DRED_DURATION_REQUEST,
}

/// For [`Control::Signal`].
pub const VOICE: i32 = sys::OPUS_SIGNAL_VOICE;

/// An encoder of 48 kHz mono.
pub struct Encoder(Handle<sys::OpusEncoder>);

impl Encoder {
    /// An encoder for speech, with libopus' own settings.
    pub fn for_speech() -> Result<Self, Error> {
        // SAFETY: the error is written to a variable that outlives the call.
        let create =
            |error: &mut c_int| unsafe { sys::opus_encoder_create(HZ, MONO, sys::OPUS_APPLICATION_VOIP, error) };
        Handle::new(create, sys::opus_encoder_destroy).map(Self)
    }

    /// An encoder for whatever is heard, with libopus' own settings.
    pub fn for_any_sound() -> Result<Self, Error> {
        // SAFETY: the error is written to a variable that outlives the call.
        let create =
            |error: &mut c_int| unsafe { sys::opus_encoder_create(HZ, MONO, sys::OPUS_APPLICATION_AUDIO, error) };
        Handle::new(create, sys::opus_encoder_destroy).map(Self)
    }

    /// By how many samples what is decoded lags behind what was encoded.
    pub fn lookahead(&mut self) -> Result<usize, Error> {
        let mut samples: c_int = 0;
        let place: *mut c_int = &raw mut samples;
        // SAFETY: the state is alive and ours; the request takes exactly one place for an int, which outlives the call.
        check(unsafe { sys::opus_encoder_ctl(self.0.as_ptr(), sys::OPUS_GET_LOOKAHEAD_REQUEST, place) })?;
        check(samples)
    }

    /// Changes a setting from the next packet on.
    pub fn set(&mut self, control: Control, value: i32) -> Result<(), Error> {
        // SAFETY: the state is alive and ours; each request of `Control` takes exactly one int.
        check(unsafe { sys::opus_encoder_ctl(self.0.as_ptr(), control as c_int, value) }).map(drop)
    }

    /// Encodes one frame of 2.5, 5, 10, 20, 40, 60, 80, 100 or 120 ms, and returns the bytes that were written.
    pub fn encode(&mut self, frame: &[f32], packet: &mut [u8]) -> Result<usize, Error> {
        let (samples, room) = (length(frame.len()), length(packet.len()));
        // SAFETY: the state is alive and ours; both slices hold what their lengths say, and libopus refuses other frames.
        check(unsafe { sys::opus_encode_float(self.0.as_ptr(), frame.as_ptr(), samples, packet.as_mut_ptr(), room) })
    }
}

/// A decoder of 48 kHz mono.
pub struct Decoder(Handle<sys::OpusDecoder>);

impl Decoder {
    /// A decoder with libopus' own settings.
    pub fn new() -> Result<Self, Error> {
        // SAFETY: the error is written to a variable that outlives the call.
        let create = |error: &mut c_int| unsafe { sys::opus_decoder_create(HZ, MONO, error) };
        Handle::new(create, sys::opus_decoder_destroy).map(Self)
    }

    /// From 5 on loss is concealed by a neural network.
    pub fn set_complexity(&mut self, complexity: i32) -> Result<(), Error> {
        // SAFETY: the state is alive and ours; the request takes exactly one int.
        check(unsafe { sys::opus_decoder_ctl(self.0.as_ptr(), sys::OPUS_SET_COMPLEXITY_REQUEST, complexity) }).map(drop)
    }

    /// Forgets what was decoded; settings stay.
    pub fn reset(&mut self) -> Result<(), Error> {
        // SAFETY: the state is alive and ours; the request takes nothing.
        check(unsafe { sys::opus_decoder_ctl(self.0.as_ptr(), sys::OPUS_RESET_STATE) }).map(drop)
    }

    /// Decodes a packet, or with `fec` what it holds of its predecessor; without a packet, conceals as much as `sound`
    /// holds. Returns the samples that were written.
    pub fn decode(&mut self, packet: Option<&[u8]>, fec: bool, sound: &mut [f32]) -> Result<usize, Error> {
        let (data, bytes) = packet.map_or((ptr::null(), 0), |packet| (packet.as_ptr(), length(packet.len())));
        let room = length(sound.len());
        // SAFETY: the state is alive and ours; packet and sound hold what their lengths say; without a packet it reads none.
        check(unsafe {
            sys::opus_decode_float(self.0.as_ptr(), data, bytes, sound.as_mut_ptr(), room, c_int::from(fec))
        })
    }

    /// Fills `sound` with what `dred` knows of the time that begins `back` samples before its packet; what it does not know
    /// is concealed. Returns the samples that were written.
    pub fn decode_dred(&mut self, dred: &mut Dred, back: usize, sound: &mut [f32]) -> Result<usize, Error> {
        if !dred.parsed {
            return Err(Error(sys::OPUS_INVALID_STATE));
        }
        let (back, room) = (length(back), length(sound.len()));
        // SAFETY: both states are alive and ours, that of DRED was filled by `parse`; the sound holds what its length says.
        check(unsafe {
            sys::opus_decoder_dred_decode_float(self.0.as_ptr(), dred.state.as_ptr(), back, sound.as_mut_ptr(), room)
        })
    }
}

/// What one packet tells of the time before it.
pub struct Dred {
    parser: Handle<sys::OpusDREDDecoder>,
    state: Handle<sys::OpusDRED>,
    /// The state is not the memory that it was made of any more.
    parsed: bool,
}

impl Dred {
    /// One that knows nothing.
    pub fn new() -> Result<Self, Error> {
        // SAFETY: the error is written to a variable that outlives the call.
        let parser = |error: &mut c_int| unsafe { sys::opus_dred_decoder_create(error) };
        // SAFETY: the same.
        let state = |error: &mut c_int| unsafe { sys::opus_dred_alloc(error) };
        let parser = Handle::new(parser, sys::opus_dred_decoder_destroy)?;
        Ok(Self { parser, state: Handle::new(state, sys::opus_dred_free)?, parsed: false })
    }

    /// Reads what `packet` tells of the second before it: from the first number of samples before it to the second one.
    /// Both are 0 when it tells nothing.
    pub fn parse(&mut self, packet: &[u8]) -> Result<(usize, usize), Error> {
        let mut end = 0;
        self.parsed = false;
        // SAFETY: both states are alive and ours; the packet holds what its length says; `end` outlives the call.
        let known = check(unsafe {
            sys::opus_dred_parse(
                self.parser.as_ptr(),
                self.state.as_ptr(),
                packet.as_ptr(),
                length(packet.len()),
                HZ,
                HZ,
                &raw mut end,
                0,
            )
        })?;
        self.parsed = true;
        Ok((known, usize::try_from(end).unwrap_or(0)))
    }
}
