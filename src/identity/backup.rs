//! A person's key, sealed with a passphrase, as a few lines of text that survive paper, mail and cloud storage.
//!
//! ```text
//! telecon-backup 1
//! kdf argon2id 65536 3 4       memory in KiB, passes, lanes (RFC 9106)
//! salt  …                      32 hex digits
//! nonce …                      48 hex digits
//! sealed …                     XChaCha20-Poly1305 of the key's 32 bytes; the lines above are its associated data
//! check …                      SHA-256 of all lines above: tells a damaged file from a wrong passphrase
//! ```
//!
//! The file does not tell whose key it holds. It holds nothing else: device, node key and contacts belong to an installation.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use ed25519_dalek::SigningKey;
use rand::{TryRng, rngs::SysRng};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{hex, unhex};

/// Longest backup in bytes; a complete one has about 330.
pub const MAX_BACKUP_BYTES: usize = 4096;
/// Shortest passphrase, in characters.
pub const MIN_PASSPHRASE_CHARS: usize = 8;
/// Longest passphrase, in bytes.
pub const MAX_PASSPHRASE_BYTES: usize = 1024;

const NAME: &str = "telecon-backup";
const VERSION: &str = "1";
/// The second recommended option of RFC 9106, §4: 64 MiB, 3 passes, 4 lanes.
const RECOMMENDED: Cost = Cost { memory_kib: 64 * 1024, passes: 3, lanes: 4 };
/// What a file may ask for at most: its writer is unknown until it is open, and must not take this machine's memory or an hour.
const LIMIT: Cost = Cost { memory_kib: 512 * 1024, passes: 16, lanes: 16 };

/// What a human remembers and nobody guesses.
pub struct Passphrase(Zeroizing<String>);

/// A text that is no [`Passphrase`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseError {
    /// Empty or soon guessed.
    #[error(
        "a passphrase has at least {MIN_PASSPHRASE_CHARS} characters, since whoever finds the backup can try \
         shorter ones all; take a few words that belong together only for you"
    )]
    Short,
    /// Longer than any that was typed.
    #[error("a passphrase has at most {MAX_PASSPHRASE_BYTES} bytes; is this the right file?")]
    Long,
}

impl Passphrase {
    /// Takes the text as it is, spaces included.
    ///
    /// # Errors
    /// When it is too short to protect anything, or too long.
    pub fn new(text: Zeroizing<String>) -> Result<Self, PassphraseError> {
        if text.chars().count() < MIN_PASSPHRASE_CHARS {
            return Err(PassphraseError::Short);
        }
        if text.len() > MAX_PASSPHRASE_BYTES {
            return Err(PassphraseError::Long);
        }
        Ok(Self(text))
    }
}

/// Why a key could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// It does not begin as a backup does.
    #[error("it is no backup of telecon")]
    Foreign,
    /// Made by a later telecon.
    #[error("it was made by a later telecon; install that one, then import it again")]
    Newer,
    /// Cut off or changed.
    #[error("it is damaged; take another copy of it")]
    Damaged,
    /// It is whole, and would take more memory or time than any backup of telecon.
    #[error("it asks for more memory or time than a backup of telecon does; do not trust where it comes from")]
    Costly,
    /// It is whole, and this passphrase does not open it.
    #[error("the passphrase is wrong; try again, and mind the keyboard's layout")]
    WrongPassphrase,
    /// The work of the passphrase does not fit into the memory.
    #[error("there is not enough memory to open or seal it; close something else, then try again")]
    Memory,
    /// The system has no random numbers to give.
    #[error("the system gives no random numbers; check /dev/urandom")]
    Random,
}

/// What trying one passphrase costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// A file that was read, and is whole. Nothing in it is proven before [`Backup::open`].
#[derive(Debug)]
pub struct Backup {
    cost: Cost,
    salt: [u8; 16],
    nonce: [u8; 24],
    sealed: [u8; 48],
}

impl Backup {
    /// Seals a person's key.
    ///
    /// # Errors
    /// [`BackupError::Memory`], [`BackupError::Random`].
    pub fn seal(key: &SigningKey, passphrase: &Passphrase) -> Result<Self, BackupError> {
        Self::seal_at(RECOMMENDED, key, passphrase)
    }

    fn seal_at(cost: Cost, key: &SigningKey, passphrase: &Passphrase) -> Result<Self, BackupError> {
        let (mut salt, mut nonce) = ([0; 16], [0; 24]);
        for bytes in [&mut salt[..], &mut nonce[..]] {
            SysRng.try_fill_bytes(bytes).map_err(|_| BackupError::Random)?;
        }
        let person = Zeroizing::new(key.to_bytes());
        let aad = header(cost, &salt, &nonce);
        let payload = Payload { msg: &person[..], aad: aad.as_bytes() };
        let sealed = cipher(cost, &salt, passphrase)?.encrypt(&nonce.into(), payload);
        let sealed = sealed.ok().and_then(|sealed| sealed.try_into().ok()).ok_or(BackupError::Memory)?;
        Ok(Self { cost, salt, nonce, sealed })
    }

    /// Opens it. With the default cost this takes about a second and 64 MiB.
    ///
    /// # Errors
    /// [`BackupError::WrongPassphrase`], [`BackupError::Memory`].
    pub fn open(&self, passphrase: &Passphrase) -> Result<SigningKey, BackupError> {
        let aad = header(self.cost, &self.salt, &self.nonce);
        let payload = Payload { msg: &self.sealed, aad: aad.as_bytes() };
        let opened = cipher(self.cost, &self.salt, passphrase)?.decrypt(&self.nonce.into(), payload);
        let person = Zeroizing::new(opened.map_err(|_| BackupError::WrongPassphrase)?);
        let person: &[u8; 32] = person.as_slice().try_into().map_err(|_| BackupError::Damaged)?;
        Ok(SigningKey::from_bytes(person))
    }

    /// The file's text.
    pub fn render(&self) -> String {
        let text = format!("{}sealed {}\n", header(self.cost, &self.salt, &self.nonce), hex(&self.sealed));
        let check = hex(&Sha256::digest(text.as_bytes()));
        format!("{text}check {check}\n")
    }

    /// Reads what [`Self::render`] wrote; line ends of other systems and space around the whole are no damage.
    ///
    /// # Errors
    /// Everything but those of a passphrase.
    pub fn parse(bytes: &[u8]) -> Result<Self, BackupError> {
        if bytes.len() > MAX_BACKUP_BYTES {
            return Err(BackupError::Foreign);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| BackupError::Foreign)?;
        let mut lines = text.trim().lines();
        let (name, version) = lines.next().and_then(|line| line.split_once(' ')).ok_or(BackupError::Foreign)?;
        if name != NAME {
            return Err(BackupError::Foreign);
        }
        if version != VERSION {
            let later = version.parse::<u32>().is_ok_and(|version| version > 1);
            return Err(if later { BackupError::Newer } else { BackupError::Damaged });
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let fields = (field("kdf"), field("salt"), field("nonce"), field("sealed"), field("check"));
        let (Some(kdf), Some(salt), Some(nonce), Some(sealed), Some(_)) = fields else {
            return Err(BackupError::Damaged);
        };
        let bytes = (Cost::parse(kdf), unhex(salt), unhex(nonce), unhex(sealed));
        let (Some(cost), Some(salt), Some(nonce), Some(sealed)) = bytes else { return Err(BackupError::Damaged) };
        let backup = Self { cost, salt, nonce, sealed };
        // One spelling only, and with it the check line.
        let unchanged = backup.render().lines().eq(text.trim().lines());
        if !unchanged {
            return Err(BackupError::Damaged);
        }
        if !cost.is_bearable() {
            return Err(BackupError::Costly);
        }
        Ok(backup)
    }
}

impl Cost {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.strip_prefix("argon2id ")?.split(' ').map(|number| number.parse().ok());
        let (memory_kib, passes, lanes) = (numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(Self { memory_kib, passes, lanes })
    }

    fn is_bearable(self) -> bool {
        let asked = [self.memory_kib, self.passes, self.lanes];
        let limits = [LIMIT.memory_kib, LIMIT.passes, LIMIT.lanes];
        asked.iter().zip(limits).all(|(asked, limit)| *asked <= limit) && self.params().is_some()
    }

    fn params(self) -> Option<Params> {
        Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).ok()
    }
}

fn header(cost: Cost, salt: &[u8; 16], nonce: &[u8; 24]) -> String {
    let Cost { memory_kib, passes, lanes } = cost;
    let kdf = format!("kdf argon2id {memory_kib} {passes} {lanes}");
    format!("{NAME} {VERSION}\n{kdf}\nsalt {}\nnonce {}\n", hex(salt), hex(nonce))
}

/// The work that makes each guess expensive.
fn cipher(cost: Cost, salt: &[u8; 16], passphrase: &Passphrase) -> Result<XChaCha20Poly1305, BackupError> {
    let params = cost.params().ok_or(BackupError::Costly)?;
    let count = params.block_count();
    let mut memory: Zeroizing<Vec<Block>> = Zeroizing::new(Vec::new());
    memory.try_reserve_exact(count).map_err(|_| BackupError::Memory)?;
    memory.resize(count, Block::default());
    let mut key = Zeroizing::new([0; 32]);
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let worked = argon2.hash_password_into_with_memory(passphrase.0.as_bytes(), salt, &mut key[..], &mut memory[..]);
    worked.map_err(|_| BackupError::Memory)?;
    Ok(XChaCha20Poly1305::new((&*key).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// So little that a test may do it often.
    const CHEAP: Cost = Cost { memory_kib: 32, passes: 1, lanes: 4 };

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.to_owned())).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    }

    fn backup() -> Backup {
        Backup::seal_at(CHEAP, &key(), &passphrase("correct horse")).unwrap()
    }

    /// What a writer of files with a right check line can make.
    fn rechecked(text: &str) -> String {
        let (body, _) = text.split_once("check ").unwrap();
        format!("{body}check {}\n", hex(&Sha256::digest(body.as_bytes())))
    }

    #[test]
    fn a_backup_is_opened_with_its_passphrase_and_with_no_other() {
        let read = Backup::parse(backup().render().as_bytes()).unwrap();
        assert_eq!(read.open(&passphrase("correct horse")).unwrap(), key());
        for wrong in ["correct Horse", "correct horse ", "correct hors"] {
            assert_eq!(read.open(&passphrase(wrong)).unwrap_err(), BackupError::WrongPassphrase, "{wrong:?}");
        }
    }

    #[test]
    fn a_new_backup_costs_what_rfc_9106_recommends_and_can_be_opened() {
        let text = Backup::seal(&key(), &passphrase("correct horse")).unwrap().render();
        assert_eq!(text.lines().nth(1), Some("kdf argon2id 65536 3 4"));
        assert_eq!(Backup::parse(text.as_bytes()).unwrap().open(&passphrase("correct horse")).unwrap(), key());
    }

    /// Made with other programs: argon2-cffi 25 (the reference implementation) and PyNaCl 1 (libsodium).
    #[test]
    fn what_others_sealed_by_the_description_above_is_opened() {
        let text = "telecon-backup 1\n\
            kdf argon2id 65536 3 4\n\
            salt 6465666768696a6b6c6d6e6f70717273\n\
            nonce c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf\n\
            sealed efa99551b3fa9816e9d61d5bf76603c951de410518b6cdd1c0664a7a400930d4c5a27eeb53143507c6f5247cc3cde678\n\
            check e5736ab40b642b953e23e2567a6d1dfcfd37fd2ffd1b19ee9922ef2944640037\n";
        let opened = Backup::parse(text.as_bytes()).unwrap().open(&passphrase("correct horse ☎")).unwrap();
        let counted: Vec<u8> = (0..32).collect();
        assert_eq!(opened.to_bytes(), counted[..]);
    }

    #[test]
    fn two_backups_of_one_key_have_nothing_in_common_and_tell_nothing_of_it() {
        let (a, b) = (backup(), backup());
        assert!(a.salt != b.salt && a.nonce != b.nonce && a.sealed != b.sealed);
        let text = a.render();
        assert!(!text.contains(&hex(key().as_bytes())) && !text.contains("did:"), "{text}");
    }

    #[test]
    fn every_changed_byte_is_refused_before_any_work_is_done() {
        let good = backup().render().into_bytes();
        for at in 0..good.len() - 1 {
            for flip in 1..=255 {
                let mut bad = good.clone();
                bad[at] ^= flip;
                let error = Backup::parse(&bad).map(|_| ()).unwrap_err();
                assert_ne!(error, BackupError::WrongPassphrase, "byte {at} with {flip:#04x}");
            }
        }
        for length in 0..good.len() - 1 {
            assert!(Backup::parse(&good[..length]).is_err(), "cut off after {length}");
        }
        assert_eq!(Backup::parse(&[&good[..], b"x\n"].concat()).unwrap_err(), BackupError::Damaged);
    }

    #[test]
    fn every_changed_digit_under_a_right_check_line_is_refused_too() {
        let text = backup().render();
        let digits =
            text.split_once("check ").unwrap().0.char_indices().skip_while(|(at, _)| *at < text.find("kdf").unwrap());
        let mut tried = 0;
        for (at, digit) in digits.filter(|(_, digit)| digit.is_ascii_hexdigit()) {
            let other = if digit == '1' { '2' } else { '1' };
            let forged = rechecked(&format!("{}{other}{}", &text[..at], &text[at + 1..]));
            tried += 1;
            let opened = Backup::parse(forged.as_bytes()).and_then(|backup| backup.open(&passphrase("correct horse")));
            assert!(opened.is_err(), "the digit at {at}");
        }
        assert!(tried > 160, "only {tried} digits");
    }

    #[test]
    fn a_file_cannot_ask_for_more_than_is_bearable() {
        let text = backup().render();
        let asking = |kdf: &str| rechecked(&text.replace("argon2id 32 1 4", kdf));
        for kdf in ["argon2id 524289 1 1", "argon2id 4294967295 1 1", "argon2id 32 17 4", "argon2id 1024 1 17"] {
            assert_eq!(Backup::parse(asking(kdf).as_bytes()).unwrap_err(), BackupError::Costly, "{kdf}");
        }
        for kdf in ["argon2id 0 1 1", "argon2id 32 0 4", "argon2id 32 1 0", "argon2id 31 1 4"] {
            assert!(Backup::parse(asking(kdf).as_bytes()).is_err(), "{kdf}");
        }
        for kdf in
            ["argon2id 4294967296 1 1", "argon2d 32 1 4", "argon2id 032 1 4", "argon2id 32 1 4 1", "argon2id 32 1"]
        {
            assert_eq!(Backup::parse(asking(kdf).as_bytes()).unwrap_err(), BackupError::Damaged, "{kdf}");
        }
        assert!(Backup::parse(asking("argon2id 524288 16 16").as_bytes()).is_ok());
    }

    #[test]
    fn foreign_later_and_damaged_files_are_told_apart() {
        let text = backup().render();
        let cases: [(&[u8], BackupError); 8] = [
            (b"", BackupError::Foreign),
            (b"my shopping list", BackupError::Foreign),
            (&[0xff; 100], BackupError::Foreign),
            (b"telecon-identity 1\ndid x\n", BackupError::Foreign),
            (&[b' '; MAX_BACKUP_BYTES + 1], BackupError::Foreign),
            (b"telecon-backup 2\nwhatever\n", BackupError::Newer),
            (b"telecon-backup x\n", BackupError::Damaged),
            (&text.as_bytes()[..100], BackupError::Damaged),
        ];
        for (bytes, error) in cases {
            assert_eq!(Backup::parse(bytes).unwrap_err(), error, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn a_journey_through_other_systems_and_mail_does_no_harm() {
        let text = backup().render();
        for travelled in [text.replace('\n', "\r\n"), format!("\n\n  {text}\n\n"), text.trim_end().to_owned()] {
            let opened = Backup::parse(travelled.as_bytes()).and_then(|b| b.open(&passphrase("correct horse")));
            assert_eq!(opened.unwrap(), key());
        }
    }

    #[test]
    fn a_passphrase_is_not_short_and_counts_in_characters() {
        let new = |text: &str| Passphrase::new(Zeroizing::new(text.to_owned())).map(|_| ());
        assert_eq!(new(""), Err(PassphraseError::Short));
        assert_eq!(new("1234567"), Err(PassphraseError::Short));
        assert_eq!(new("äöüäöüä"), Err(PassphraseError::Short));
        assert_eq!(new("äöüäöüäö"), Ok(()));
        assert_eq!(new(&"x".repeat(MAX_PASSPHRASE_BYTES + 1)), Err(PassphraseError::Long));
    }

    proptest! {
        #[test]
        fn arbitrary_files_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), lines in "(kdf|salt|nonce|sealed|check|[ 0-9a-f\n]){0,20}") {
            let _ = Backup::parse(&bytes);
            let _ = Backup::parse(format!("telecon-backup 1\n{lines}").as_bytes());
        }
    }
}
