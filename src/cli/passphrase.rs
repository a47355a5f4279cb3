//! A passphrase from the terminal without echo, from the first line of stdin, or from that of a file: never from the command line,
//! which every user of the machine can read.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    path::Path,
};

use rustix::{
    io::Errno,
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr},
};
use zeroize::Zeroizing;

use super::exit::{self, CliError};
use crate::identity::backup::{MAX_PASSPHRASE_BYTES, Passphrase};

/// How often a human is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// A wrong one is found out at once.
    Once,
    /// A slip would be found out when it is too late.
    Twice,
}

/// Reads it from `file`, or asks for it.
pub fn read(file: Option<&Path>, asking: Asking) -> Result<Passphrase, CliError> {
    let line = match file {
        Some(file) => {
            let named = |error| unreadable(&file.display().to_string(), &error);
            Some(first_line(File::open(file).map_err(named)?).map_err(named)?)
        }
        None if io::stdin().is_terminal() => prompt(asking).map_err(|error| unreadable("the terminal", &error))?,
        None => Some(first_line(io::stdin()).map_err(|error| unreadable("stdin", &error))?),
    };
    let line = line.ok_or_else(|| CliError::new(exit::BAD_DATA, "the two passphrases differ; try again"))?;
    Passphrase::new(line).map_err(|error| CliError::new(exit::BAD_DATA, error.to_string()))
}

fn unreadable(place: &str, error: &io::Error) -> CliError {
    let message = format!(
        "no passphrase can be read from {place}: {error}; give it on the terminal, on stdin, or with --passphrase-file"
    );
    CliError::new(exit::BAD_DATA, message)
}

/// `None`: what was typed twice differs.
fn prompt(asking: Asking) -> io::Result<Option<Zeroizing<String>>> {
    let quiet = Quiet::begin()?;
    let first = ask("Passphrase: ")?;
    let same = match asking {
        Asking::Once => true,
        Asking::Twice => ask("The same again: ")? == first,
    };
    drop(quiet);
    Ok(same.then_some(first))
}

fn ask(what: &str) -> io::Result<Zeroizing<String>> {
    let mut stderr = io::stderr().lock();
    stderr.write_all(what.as_bytes())?;
    stderr.flush()?;
    let line = first_line(io::stdin())?;
    // The user's own line end was not echoed either.
    stderr.write_all(b"\n")?;
    Ok(line)
}

/// The terminal does not show what is typed, for as long as this lives.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes -= LocalModes::ECHO;
        tcsetattr(io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing either.
        let _gone = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

/// The first line without its end. Read byte by byte into one place that is wiped: buffers of the library are not.
fn first_line(from: impl AsFd) -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PASSPHRASE_BYTES + 2));
    while line.len() <= MAX_PASSPHRASE_BYTES {
        let mut byte = Zeroizing::new([0]);
        match rustix::io::read(&from, &mut byte[..]) {
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) => line.push(byte[0]),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    let text = std::str::from_utf8(&line).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: &[u8]) -> io::Result<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, bytes).unwrap();
        first_line(File::open(file).unwrap()).map(|line| line.as_str().to_owned())
    }

    #[test]
    fn only_the_first_line_counts_and_spaces_belong_to_it() {
        for (bytes, expected) in [
            (&b"correct horse"[..], "correct horse"),
            (b" two  spaces \nnot this", " two  spaces "),
            (b"from elsewhere\r\n", "from elsewhere"),
            (b"", ""),
            (b"\nnot this", ""),
        ] {
            assert_eq!(line(bytes).unwrap(), expected);
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_read_for_ever() {
        assert_eq!(line(&[b'x'; 100_000]).unwrap().len(), MAX_PASSPHRASE_BYTES + 1);
        let endless = File::open("/dev/zero").unwrap();
        assert_eq!(first_line(endless).unwrap().len(), MAX_PASSPHRASE_BYTES + 1);
    }

    #[test]
    fn what_is_no_text_is_refused_with_the_remedy() {
        assert!(line(&[0xff, b'\n']).is_err());
        let error = read(Some(Path::new("/nonexistent")), Asking::Once).err().unwrap();
        assert!(error.message.contains("/nonexistent") && error.message.contains("--passphrase-file"));
        assert_eq!(error.code, exit::BAD_DATA);
    }
}
