//! Where telecon's files are (XDG Base Directory Specification 0.8), or all of them below one directory of the user's.

use std::path::{Path, PathBuf};

use directories::BaseDirs;

/// Every file and directory that telecon uses. Nothing is created here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// `$XDG_CONFIG_HOME/telecon/telecon.toml`
    pub config_file: PathBuf,
    /// `$XDG_STATE_HOME/telecon`: identity, database.
    pub state_dir: PathBuf,
    /// `$XDG_RUNTIME_DIR/telecon/control.sock`; beside the state where there is no runtime directory.
    pub socket: PathBuf,
    /// `$XDG_DATA_HOME/telecon/recordings`
    pub recordings: PathBuf,
}

/// Why the files have no place.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// Neither `HOME` nor a password entry.
    #[error("this user has no home directory; set HOME, or give a directory with --home")]
    NoHome,
    /// `--home` is relative and there is no current directory.
    #[error("--home {} cannot be made absolute: {source}; give an absolute path", home.display())]
    NotAbsolute {
        /// As given.
        home: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Paths {
    /// Everything directly below `home`, or where XDG says.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn resolve(home: Option<&Path>) -> Result<Self, PathsError> {
        match home {
            Some(home) => {
                let absolute = std::path::absolute(home);
                let home = absolute.map_err(|source| PathsError::NotAbsolute { home: home.into(), source })?;
                Ok(Self::below(home))
            }
            None => Self::xdg(&BaseDirs::new().ok_or(PathsError::NoHome)?).ok_or(PathsError::NoHome),
        }
    }

    fn below(home: PathBuf) -> Self {
        Self {
            config_file: home.join("telecon.toml"),
            socket: home.join("control.sock"),
            recordings: home.join("recordings"),
            state_dir: home,
        }
    }

    fn xdg(dirs: &BaseDirs) -> Option<Self> {
        let state_dir = dirs.state_dir()?.join("telecon");
        let runtime_dir = dirs.runtime_dir().map_or_else(|| state_dir.clone(), |dir| dir.join("telecon"));
        Some(Self {
            config_file: dirs.config_dir().join("telecon/telecon.toml"),
            socket: runtime_dir.join("control.sock"),
            recordings: dirs.data_dir().join("telecon/recordings"),
            state_dir,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_of_ones_own_holds_everything() {
        let paths = Paths::resolve(Some(Path::new("/tmp/alice"))).expect("absolute");
        assert_eq!(paths.config_file, Path::new("/tmp/alice/telecon.toml"));
        assert_eq!(paths.socket, Path::new("/tmp/alice/control.sock"));
        assert_eq!(paths.state_dir, Path::new("/tmp/alice"));
        assert_eq!(paths.recordings, Path::new("/tmp/alice/recordings"));
    }

    #[test]
    fn a_relative_home_becomes_absolute() {
        let paths = Paths::resolve(Some(Path::new("alice"))).expect("there is a current directory");
        assert!(paths.socket.is_absolute());
    }
}
