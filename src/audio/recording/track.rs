//! One file of a recording: Opus in Ogg (RFC 7845), whose sample n was heard n / 48 kHz after the recording began.
//!
//! Whole pages reach the file with one write each, so that after a `kill -9` half a second is missing at most.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use ogg::{PacketWriter, writing::PacketWriteEndInfo};

use super::{BLOCK_SAMPLES, Block, RecordingError};
use crate::audio::{FRAME_SAMPLES, SAMPLE_RATE_HZ, codec::Encoder, mixer::mean_square};

/// Frames of 20 ms on one page: half a second.
const FRAMES_PER_PAGE: u32 = 25;
/// Once a frame of digital silence is as short as this, the encoder has forgotten what was before (CELT's silence flag, RFC 6716,
/// §4.3), and its answer is the same for ever.
const SILENCE_BYTES: usize = 4;
const SILENCE: Block = [0.0; BLOCK_SAMPLES];
/// A silence that goes on is written in packets of 120 ms, the longest there are (RFC 6716, §3.2.5).
const FRAMES_OF_SILENCE: u8 = 6;
const BLOCKS_OF_SILENCE: u64 = FRAMES_OF_SILENCE as u64 * BLOCKS_PER_FRAME;
const BLOCKS_PER_FRAME: u64 = (FRAME_SAMPLES / BLOCK_SAMPLES) as u64;
/// What is softer than -70 dBFS is nobody's voice, and costs as much: it is silence.
const SILENT_POWER: f32 = 1e-7;

/// A file that grows block by block.
pub struct Track {
    path: PathBuf,
    file: File,
    pages: PacketWriter<'static, Vec<u8>>,
    serial: u32,
    encoder: Encoder,
    lookahead_samples: u64,
    /// Blocks so far.
    place: u64,
    frame: [f32; FRAME_SAMPLES],
    /// Frames in the file and on the page that is being filled.
    frames: u64,
    on_page: u32,
    /// No page with sound is in the file.
    is_empty: bool,
    /// What the next frame of a silence that goes on looks like.
    silence: Option<Bytes>,
}

impl Track {
    /// A new file; `tags` are its comments, such as `ARTIST=bob`.
    pub fn create(path: &Path, tags: &[String]) -> Result<Self, RecordingError> {
        let unusable = |source| RecordingError::Unusable { path: path.to_owned(), source };
        let no_memory = |error: &dyn std::fmt::Display| RecordingError::NoMemory(error.to_string());
        let mut encoder = Encoder::for_recording().map_err(|error| no_memory(&error))?;
        let lookahead = encoder.lookahead_samples().map_err(|error| no_memory(&error))?;
        let lookahead_samples = u16::try_from(lookahead).unwrap_or(u16::MAX);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(unusable)?;
        let mut track = Self {
            path: path.to_owned(),
            file,
            pages: PacketWriter::new(Vec::new()),
            serial: rand::random(),
            encoder,
            lookahead_samples: lookahead_samples.into(),
            place: 0,
            frame: [0.0; FRAME_SAMPLES],
            frames: 0,
            on_page: 0,
            is_empty: true,
            silence: None,
        };
        let mut headers = [head(lookahead_samples), comments(tags)].into_iter();
        let written = headers.try_for_each(|header| track.packet(header, PacketWriteEndInfo::EndPage, 0));
        written.inspect_err(|_| track.remove()).map(|()| track)
    }

    /// Nothing can be heard in it, not even silence.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Takes the file away.
    pub fn remove(&self) {
        drop(fs::remove_file(&self.path));
    }

    /// How long the file is, in blocks.
    pub fn place(&self) -> u64 {
        self.place
    }

    /// Writes a block to its place. One that comes too late for it is lost.
    pub fn write(&mut self, at: u64, block: &Block) -> Result<(), RecordingError> {
        if at < self.place {
            return Ok(());
        }
        self.pad_to(at)?;
        self.push(if mean_square(block) < SILENT_POWER { &SILENCE } else { block })
    }

    /// Makes the file that long with silence. An hour of it is a millisecond's work and less than a megabyte: somebody who
    /// comes late holds nobody up.
    pub fn pad_to(&mut self, place: u64) -> Result<(), RecordingError> {
        while self.place < place {
            let fits = self.place.is_multiple_of(BLOCKS_PER_FRAME) && self.place + BLOCKS_OF_SILENCE <= place;
            match self.silence.as_deref().filter(|_| fits).and_then(long) {
                Some(packet) => self.push_silence(packet, place)?,
                None => self.push(&SILENCE)?,
            }
        }
        Ok(())
    }

    /// The page ends with the silence, or where it is full.
    fn push_silence(&mut self, packet: Vec<u8>, until: u64) -> Result<(), RecordingError> {
        self.place += BLOCKS_OF_SILENCE;
        self.frames += u64::from(FRAMES_OF_SILENCE);
        self.on_page = 0;
        let is_last = self.place + BLOCKS_OF_SILENCE > until;
        let end = if is_last { PacketWriteEndInfo::EndPage } else { PacketWriteEndInfo::NormalPacket };
        self.packet(packet, end, self.frames * FRAME_SAMPLES as u64)
    }

    /// Ends the file properly; its length is exactly that of the blocks.
    pub fn finish(&mut self) -> Result<(), RecordingError> {
        let end = self.place * BLOCK_SAMPLES as u64 + self.lookahead_samples;
        // The last samples come out of the decoder only behind what follows on them.
        let payload = self.encode()?;
        let granule = end.min((self.frames + 1) * FRAME_SAMPLES as u64);
        self.packet(payload.to_vec(), PacketWriteEndInfo::EndStream, granule)
    }

    fn push(&mut self, block: &Block) -> Result<(), RecordingError> {
        let half = (self.place as usize % 2) * BLOCK_SAMPLES;
        self.frame[half..half + BLOCK_SAMPLES].copy_from_slice(block);
        self.place += 1;
        if half == 0 {
            self.frame[BLOCK_SAMPLES..].fill(0.0);
            return Ok(());
        }
        let payload = self.encode()?;
        self.frame.fill(0.0);
        self.frames += 1;
        self.on_page = (self.on_page + 1) % FRAMES_PER_PAGE;
        let end = if self.on_page == 0 { PacketWriteEndInfo::EndPage } else { PacketWriteEndInfo::NormalPacket };
        self.packet(payload.to_vec(), end, self.frames * FRAME_SAMPLES as u64)
    }

    fn encode(&mut self) -> Result<Bytes, RecordingError> {
        let is_silent = self.frame.iter().all(|sample| *sample == 0.0);
        self.silence = self.silence.take().filter(|_| is_silent);
        if let Some(silence) = &self.silence {
            return Ok(silence.clone());
        }
        let encoded = self.encoder.encode(&self.frame);
        let payload = encoded.map_err(|error| self.unusable(io::Error::other(error.to_string())))?;
        self.silence = (is_silent && payload.len() <= SILENCE_BYTES).then(|| payload.clone());
        Ok(payload)
    }

    fn packet(&mut self, packet: Vec<u8>, end: PacketWriteEndInfo, granule: u64) -> Result<(), RecordingError> {
        let paged = self.pages.write_packet(packet, self.serial, end, granule);
        let written = paged.and_then(|()| {
            let whole = std::mem::take(self.pages.inner_mut());
            if whole.is_empty() {
                return Ok(());
            }
            self.file.write_all(&whole)?;
            if self.file.metadata()?.nlink() == 0 {
                return Err(io::Error::other("it has been removed"));
            }
            self.is_empty &= granule == 0;
            Ok(())
        });
        written.map_err(|error| self.unusable(error))
    }

    fn unusable(&self, source: io::Error) -> RecordingError {
        RecordingError::Unusable { path: self.path.clone(), source }
    }
}

/// [`FRAMES_OF_SILENCE`] times the one frame of this packet (RFC 6716, §3.2.5); `None`: it has more than one.
fn long(packet: &[u8]) -> Option<Vec<u8>> {
    const FRAMES_OF_ONE_LENGTH: u8 = 3;
    let (toc, frame) = packet.split_first().filter(|(toc, _)| *toc & FRAMES_OF_ONE_LENGTH == 0)?;
    let mut long = vec![toc | FRAMES_OF_ONE_LENGTH, FRAMES_OF_SILENCE];
    (0..FRAMES_OF_SILENCE).for_each(|_| long.extend(frame));
    Some(long)
}

/// The identification header (RFC 7845, §5.1).
fn head(pre_skip: u16) -> Vec<u8> {
    const VERSION: u8 = 1;
    const CHANNELS: u8 = 1;
    const GAIN_DB: i16 = 0;
    const MONO_OR_STEREO: u8 = 0;
    let mut head = b"OpusHead".to_vec();
    head.extend([VERSION, CHANNELS]);
    head.extend(pre_skip.to_le_bytes());
    head.extend(SAMPLE_RATE_HZ.to_le_bytes());
    head.extend(GAIN_DB.to_le_bytes());
    head.push(MONO_OR_STEREO);
    head
}

/// The comment header (RFC 7845, §5.2).
fn comments(tags: &[String]) -> Vec<u8> {
    let vendor = concat!("telecon ", env!("CARGO_PKG_VERSION"));
    let text = |text: &str| [&(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let mut comments = [b"OpusTags", &text(vendor)[..], &(tags.len() as u32).to_le_bytes()].concat();
    tags.iter().for_each(|tag| comments.extend(text(tag)));
    comments
}
