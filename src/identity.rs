//! Who this installation is: the person's key, the device id, the node's key. Made at first start, then only read.
//!
//! One file holds all three, so that two first starts at once cannot mix two identities. It is never overwritten: a
//! file that is damaged, foreign or open to others is an error that says what to do, not a reason for a new DID.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use ed25519_dalek::SigningKey;
use libp2p::identity::Keypair;
use rand::{TryRng, rngs::SysRng};
use rustix::{fs::OFlags, io::Errno, process::geteuid};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    private::{DirectoryError, prepare_directory, write_new},
    proto::id::{DeviceId, Did},
};

pub mod backup;

/// The file's name in the state directory.
pub const FILE_NAME: &str = "identity.key";

/// First line of the file; the number is the version of its form.
const FIRST_LINE: &str = "telecon-identity 1";
/// A complete file has 333 bytes; anything much longer is something else.
const MAX_FILE_BYTES: u64 = 4096;

/// The keys of this installation.
pub struct Identity {
    /// The person's key; `did` is its public half.
    pub signing: SigningKey,
    /// The person.
    pub did: Did,
    /// This installation.
    pub device: DeviceId,
    /// The network node's own key: its PeerId tells nothing about the person.
    pub node_key: Keypair,
}

impl fmt::Debug for Identity {
    // Keys never reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.did)
    }
}

/// Why there is no identity. Each text names the file, the cause and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The state directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The key file is a symbolic link.
    #[error("the identity {} is a symbolic link; put the file itself there (and keep copies elsewhere)", path.display())]
    Link {
        /// The file.
        path: PathBuf,
    },
    /// The key file is a directory, a pipe, or the like.
    #[error("the identity {} is no regular file; move it away", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// The key file is somebody else's.
    #[error("the identity {} belongs to another user; run `chown` on it if it is yours", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
    },
    /// The key file is open to others.
    #[error(
        "the identity {} is open to other users (mode {mode:04o}); run `chmod 600` on it, \
         and if somebody may have read it, move it away to start as a new person",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The key file is truncated, damaged or something else.
    #[error(
        "the identity {} cannot be used: {problem}; restore it from a copy, or move it away to start as a new person",
        path.display()
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// Reading or writing failed.
    #[error("cannot {action} the identity {}: {source}; check the disk and the directory's permissions", path.display())]
    Io {
        /// Read, write, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is an identity already, and it is another person's.
    #[error(
        "the identity {} is another person's ({did}), and nothing was changed; give a new directory with --home, \
         or move that file away if you are sure that its person is not needed any more",
        path.display()
    )]
    Another {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        did: Box<Did>,
    },
    /// The system has no random numbers to give.
    #[error("the system gives no random numbers, so no identity can be made; check /dev/urandom")]
    Random,
}

impl Identity {
    /// Reads the identity of `state_dir`, or makes it (and the directory, 0700) at first start.
    ///
    /// Two first starts at once end with the same identity: the first complete file stays.
    ///
    /// # Errors
    /// Everything in [`IdentityError`]; no existing file is ever changed.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, IdentityError> {
        prepare_directory(state_dir)?;
        let path = state_dir.join(FILE_NAME);
        if let Some(identity) = load(&path)? {
            return Ok(identity);
        }
        create(state_dir, &path, None)?;
        // Read back what is there: it may be the file of another first start that was faster.
        load(&path)?.ok_or_else(|| io_error("find", &path)(io::ErrorKind::NotFound.into()))
    }

    /// Reads the identity of `state_dir`; `None` when there is none yet. Nothing is made.
    ///
    /// # Errors
    /// Everything in [`IdentityError`].
    pub fn load(state_dir: &Path) -> Result<Option<Self>, IdentityError> {
        load(&state_dir.join(FILE_NAME))
    }

    /// Makes this installation a new device of the person with that key: device and node key are its own. An installation that is
    /// this person's already stays as it is.
    ///
    /// # Errors
    /// [`IdentityError::Another`] when it is somebody else's, and everything else in [`IdentityError`]; no existing file is ever
    /// changed.
    pub fn adopt(state_dir: &Path, person: &SigningKey) -> Result<Adopted, IdentityError> {
        prepare_directory(state_dir)?;
        let path = state_dir.join(FILE_NAME);
        if let Some(there) = load(&path)? {
            return there.belongs_to(person, &path).map(Adopted::Already);
        }
        create(state_dir, &path, Some(person))?;
        // As at a first start, somebody else may have been faster.
        let made = load(&path)?.ok_or_else(|| io_error("find", &path)(io::ErrorKind::NotFound.into()))?;
        made.belongs_to(person, &path).map(Adopted::Now)
    }

    fn belongs_to(self, person: &SigningKey, path: &Path) -> Result<Self, IdentityError> {
        if self.did.key() == &person.verifying_key() {
            return Ok(self);
        }
        Err(IdentityError::Another { path: path.to_owned(), did: Box::new(self.did) })
    }
}

/// What [`Identity::adopt`] found or made.
#[derive(Debug)]
pub enum Adopted {
    /// A new device of this person.
    Now(Identity),
    /// This installation was this person's already.
    Already(Identity),
}

/// Reads the file; `None` when there is none.
fn load(path: &Path) -> Result<Option<Identity>, IdentityError> {
    let owned = || path.to_owned();
    // Not through a link, and without waiting for the other end of a pipe.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) if source.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            return Err(IdentityError::Link { path: owned() });
        }
        Err(source) => return Err(io_error("read", path)(source)),
    };
    let metadata = file.metadata().map_err(io_error("read", path))?;
    if !metadata.is_file() {
        return Err(IdentityError::NotAFile { path: owned() });
    }
    if metadata.uid() != geteuid().as_raw() {
        return Err(IdentityError::Owner { path: owned() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: owned(), mode });
    }
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    parse(&bytes).map(Some).map_err(|problem| IdentityError::Content { path: owned(), problem })
}

/// Writes a new device of `person`, or of a new person, beside the place and links it there, unless a file stands there already.
fn create(state_dir: &Path, path: &Path, known: Option<&SigningKey>) -> Result<(), IdentityError> {
    let (mut person, mut node, mut device) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]), [0; 16]);
    let mut unique = [0; 8];
    for bytes in [&mut person[..], &mut node[..], &mut device[..], &mut unique[..]] {
        SysRng.try_fill_bytes(bytes).map_err(|_| IdentityError::Random)?;
    }
    if let Some(known) = known {
        person = Zeroizing::new(known.to_bytes());
    }
    let text = render(&person, &DeviceId(device), &node);

    let temporary = state_dir.join(format!(".{FILE_NAME}.{}", hex(&unique)));
    let written = write_new(&temporary, text.as_bytes()).map_err(io_error("write", &temporary));
    // A link, unlike a rename, never replaces what stands there.
    let linked = written.and_then(|()| match fs::hard_link(&temporary, path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(io_error("write", path)(source)),
        Ok(()) | Err(_) => Ok(()),
    });
    let removed = fs::remove_file(&temporary).map_err(io_error("clean up after", &temporary));
    linked.and(removed)?;
    File::open(state_dir).and_then(|dir| dir.sync_all()).map_err(io_error("write", path))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { action, path, source }
}

/// The file's text: a line for each part, and a checksum so that a damaged key is not taken for another person's.
fn render(person: &[u8; 32], device: &DeviceId, node: &[u8; 32]) -> Zeroizing<String> {
    let did = Did::from_key(SigningKey::from_bytes(person).verifying_key());
    let (person, node) = (Zeroizing::new(hex(person)), Zeroizing::new(hex(node)));
    let mut text = Zeroizing::new(format!(
        "{FIRST_LINE}\ndid {did}\nperson {}\ndevice {}\nnode {}\n",
        *person,
        hex(&device.0),
        *node
    ));
    let check = hex(&Sha256::digest(text.as_bytes()));
    text.push_str(&format!("check {check}\n"));
    text
}

/// Reads exactly what [`render`] writes.
fn parse(bytes: &[u8]) -> Result<Identity, &'static str> {
    if bytes.is_empty() {
        return Err("the file is empty");
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no identity of telecon")?;
    let mut lines = text.lines();
    if lines.next() != Some(FIRST_LINE) {
        return Err("it is no identity of telecon, or one of a later version");
    }
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
    let fields = (field("did"), field("person"), field("device"), field("node"), field("check"));
    let (Some(_), Some(person), Some(device), Some(node), Some(_)) = fields else {
        return Err("the file is truncated or damaged");
    };
    let damaged = "the file is damaged";
    let person = Zeroizing::new(unhex(person).ok_or(damaged)?);
    let device = DeviceId(unhex(device).ok_or(damaged)?);
    let mut node = Zeroizing::new(unhex(node).ok_or(damaged)?);
    if *render(&person, &device, &node) != text {
        return Err("the file is damaged (its check line does not fit)");
    }
    let signing = SigningKey::from_bytes(&person);
    let did = Did::from_key(signing.verifying_key());
    let node_key = Keypair::ed25519_from_bytes(&mut node[..]).map_err(|_| damaged)?;
    Ok(Identity { signing, did, device, node_key })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::{DirBuilder, Permissions},
        os::unix::fs::{PermissionsExt, symlink},
    };
    use tempfile::TempDir;

    fn home() -> (TempDir, PathBuf) {
        let home = TempDir::new().unwrap();
        let state = home.path().join("state");
        (home, state)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    /// Runs a start that must fail, and checks that it names the file and changes nothing.
    fn refused(state: &Path) -> IdentityError {
        let file = state.join(FILE_NAME);
        let before = fs::read(&file).ok();
        let error = Identity::load_or_create(state).unwrap_err();
        assert_eq!(fs::read(&file).ok(), before, "an existing file was changed");
        assert!(error.to_string().contains(FILE_NAME), "{error}");
        assert!(error.to_string().contains(';'), "no remedy: {error}");
        error
    }

    #[test]
    fn the_first_start_makes_an_identity_and_the_second_finds_it() {
        let (_home, state) = home();
        let first = Identity::load_or_create(&state).unwrap();
        let second = Identity::load_or_create(&state).unwrap();
        assert_eq!(first.did, second.did);
        assert_eq!(first.signing.to_bytes(), second.signing.to_bytes());
        assert_eq!(first.device, second.device);
        assert_eq!(first.node_key.public(), second.node_key.public());
        assert_eq!((mode(&state), mode(&state.join(FILE_NAME))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn two_installations_share_nothing() {
        let ((_a, state_a), (_b, state_b)) = (home(), home());
        let (a, b) = (Identity::load_or_create(&state_a).unwrap(), Identity::load_or_create(&state_b).unwrap());
        assert_ne!(a.did, b.did);
        assert_ne!(a.device, b.device);
        assert_ne!(a.node_key.public(), b.node_key.public());
    }

    #[test]
    fn the_network_key_is_not_the_persons() {
        let (_home, state) = home();
        let identity = Identity::load_or_create(&state).unwrap();
        let node = identity.node_key.public().try_into_ed25519().unwrap();
        assert_ne!(&node.to_bytes(), identity.did.key().as_bytes());
    }

    #[test]
    fn many_first_starts_at_once_end_with_one_identity() {
        let (_home, state) = home();
        let dids: Vec<Did> = std::thread::scope(|scope| {
            let starts: Vec<_> =
                (0..16).map(|_| scope.spawn(|| Identity::load_or_create(&state).unwrap().did)).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        assert!(dids.iter().all(|did| *did == dids[0]), "{dids:?}");
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
    }

    #[test]
    fn a_start_that_lost_the_race_takes_the_winners_identity() {
        let (_home, state) = home();
        let winner = Identity::load_or_create(&state).unwrap();
        create(&state, &state.join(FILE_NAME), None).unwrap();
        assert_eq!(Identity::load_or_create(&state).unwrap().did, winner.did);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_may_read_or_write_is_refused_with_its_mode() {
        for open in [0o640, 0o604, 0o620, 0o602, 0o610] {
            let (_home, state) = home();
            Identity::load_or_create(&state).unwrap();
            fs::set_permissions(state.join(FILE_NAME), Permissions::from_mode(open)).unwrap();
            let error = refused(&state);
            assert!(matches!(error, IdentityError::Exposed { mode, .. } if mode == open));
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn a_symbolic_link_is_refused_even_to_a_good_file() {
        let (_home, state) = home();
        Identity::load_or_create(&state).unwrap();
        let file = state.join(FILE_NAME);
        fs::rename(&file, state.join("elsewhere")).unwrap();
        symlink(state.join("elsewhere"), &file).unwrap();
        assert!(matches!(refused(&state), IdentityError::Link { .. }));
        fs::remove_file(&file).unwrap();
        symlink("/nonexistent", &file).unwrap();
        assert!(matches!(refused(&state), IdentityError::Link { .. }), "a dangling link is not a first start");
    }

    #[test]
    fn a_directory_in_its_place_is_refused() {
        let (_home, state) = home();
        DirBuilder::new().recursive(true).create(state.join(FILE_NAME)).unwrap();
        assert!(matches!(refused(&state), IdentityError::NotAFile { .. }));
    }

    #[test]
    fn a_pipe_in_its_place_is_refused_without_waiting() {
        let (_home, state) = home();
        fs::create_dir(&state).unwrap();
        let path = state.join(FILE_NAME);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let error = Identity::load_or_create(&state).unwrap_err();
        assert!(matches!(error, IdentityError::NotAFile { .. }));
    }

    #[test]
    fn every_truncation_and_every_changed_byte_is_refused() {
        let (_home, state) = home();
        Identity::load_or_create(&state).unwrap();
        let good = fs::read(state.join(FILE_NAME)).unwrap();
        assert!(parse(&good).is_ok());
        for length in 0..good.len() {
            assert!(parse(&good[..length]).is_err(), "truncated to {length}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x01;
            assert!(parse(&bad).is_err(), "changed at {at}");
        }
        assert!(parse(&[&good[..], b"x"].concat()).is_err(), "something behind it");
    }

    #[test]
    fn truncated_empty_and_foreign_files_get_a_sentence_of_their_own_and_stay() {
        let (_home, state) = home();
        Identity::load_or_create(&state).unwrap();
        let file = state.join(FILE_NAME);
        let good = fs::read(&file).unwrap();
        for content in [&b""[..], &good[..100], b"-----BEGIN OPENSSH PRIVATE KEY-----\n", &[0xff; 5000]] {
            fs::write(&file, content).unwrap();
            assert!(matches!(refused(&state), IdentityError::Content { .. }));
        }
    }

    #[test]
    fn a_state_directory_that_is_a_file_is_named() {
        let (_home, state) = home();
        fs::write(&state, "").unwrap();
        let error = Identity::load_or_create(&state).unwrap_err();
        assert!(error.to_string().contains("state"), "{error}");
    }

    #[test]
    fn a_second_device_shares_the_person_and_nothing_else() {
        let ((_a, state_a), (_b, state_b)) = (home(), home());
        let first = Identity::load_or_create(&state_a).unwrap();
        assert!(Identity::load(&state_b).unwrap().is_none());
        let Adopted::Now(second) = Identity::adopt(&state_b, &first.signing).unwrap() else { panic!("it was new") };
        assert_eq!((&second.did, second.signing.to_bytes()), (&first.did, first.signing.to_bytes()));
        assert_ne!(second.device, first.device);
        assert_ne!(second.node_key.public(), first.node_key.public());
        let Adopted::Already(again) = Identity::adopt(&state_b, &first.signing).unwrap() else {
            panic!("it was there")
        };
        assert_eq!((again.device, again.node_key.public()), (second.device, second.node_key.public()));
        assert_eq!((mode(&state_b), mode(&state_b.join(FILE_NAME))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&state_b).unwrap().count(), 1, "nothing is left over");
    }

    #[test]
    fn an_installation_of_another_person_is_never_taken_over() {
        let (_home, state) = home();
        let own = Identity::load_or_create(&state).unwrap();
        let before = fs::read(state.join(FILE_NAME)).unwrap();
        let error = Identity::adopt(&state, &SigningKey::from_bytes(&[9; 32])).unwrap_err();
        assert!(matches!(&error, IdentityError::Another { did, .. } if **did == own.did), "{error}");
        assert_eq!(fs::read(state.join(FILE_NAME)).unwrap(), before);
        fs::write(state.join(FILE_NAME), &before[..50]).unwrap();
        let error = Identity::adopt(&state, &own.signing).unwrap_err();
        assert!(
            matches!(error, IdentityError::Content { .. }),
            "a damaged key is not replaced by the right one either"
        );
    }

    #[test]
    fn the_debug_form_holds_no_key() {
        let (_home, state) = home();
        let identity = Identity::load_or_create(&state).unwrap();
        let text = format!("{identity:?}");
        assert!(!text.contains(&hex(&identity.signing.to_bytes())));
        assert_eq!(text, format!("Identity({})", identity.did));
    }
}
