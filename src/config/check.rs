//! Holds a configuration file against the table of keys and says every mistake in one sentence with its place.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Config,
    keys::{self, Effect, KEYS, Kind, Wrong, wrong},
};

/// A file without mistakes.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// What it says, over the defaults.
    pub config: Config,
    /// Keys that it sets and that have no effect yet, in the file's order.
    pub idle: Vec<Idle>,
}

/// A key that is set, or one entry of it, whose feature does not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    /// Its line, from 1.
    pub line: usize,
    /// Section and name; for one entry of a list, that entry too.
    pub key: String,
}

/// One mistake. Its text is one sentence: place, key, cause and remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The file.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// Section and name; empty where the file is no TOML.
    pub key: String,
    /// What is the matter.
    pub cause: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.cause, self.remedy)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is there and cannot be read.
    #[error("{} cannot be read: {source}; make it a readable text file, or remove it to use the defaults", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that was asked for by name does not exist.
    #[error("{} does not exist; `telecon config default` prints one to start from", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// One or more mistakes, a line each, in the file's order.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Mistakes(Vec<Mistake>),
}

/// Checks a file's text; `file` is for the messages.
pub fn check(text: &str, file: &Path) -> Result<Checked, ConfigError> {
    let mut check = Check { text, file, mistakes: Vec::new(), idle: Vec::new() };
    match DeTable::parse(text) {
        Ok(table) => check.file(table.get_ref()),
        Err(error) => check.syntax(&error),
    }
    check.mistakes.sort_by_key(|mistake| mistake.line);
    check.idle.sort_by_key(|idle| idle.line);
    if !check.mistakes.is_empty() {
        return Err(ConfigError::Mistakes(check.mistakes));
    }
    match toml::from_str(text) {
        Ok(config) => Ok(Checked { config, idle: check.idle }),
        // The table of keys lets nothing through that the types refuse; if it did, this says so.
        Err(error) => {
            check.syntax(&error);
            Err(ConfigError::Mistakes(check.mistakes))
        }
    }
}

struct Check<'a> {
    text: &'a str,
    file: &'a Path,
    mistakes: Vec<Mistake>,
    idle: Vec<Idle>,
}

impl Check<'_> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
    }

    fn mistake(&mut self, offset: usize, key: &str, Wrong { cause, remedy }: Wrong) {
        let line = self.line(offset);
        self.mistakes.push(Mistake { file: self.file.into(), line, key: key.into(), cause, remedy });
    }

    fn syntax(&mut self, error: &toml::de::Error) {
        let cause = error.message().replace('\n', ", ");
        let remedy = "write keys as name = value below a [section]; texts stand in quotes";
        self.mistake(
            error.span().map_or(0, |span| span.start),
            "",
            wrong(format!("this is not TOML: {cause}"), remedy),
        );
    }

    fn file(&mut self, file: &DeTable) {
        for (section, value) in file {
            let name = section.get_ref().as_ref();
            let known = KEYS.iter().any(|key| key.name.split_once('.').is_some_and(|(section, _)| section == name));
            match value.get_ref() {
                DeValue::Table(keys) if known => self.section(name, keys),
                _ if known => {
                    let remedy = format!("begin the section with a line that says [{name}]");
                    self.mistake(section.span().start, name, wrong("this is a section, not a key", remedy));
                }
                DeValue::Table(_) => {
                    let sections = ["network", "audio", "call"];
                    let nearest = keys::nearest_word(name, sections);
                    let remedy = format!("did you mean [{nearest}]?");
                    self.mistake(section.span().start, name, wrong("there is no such section", remedy));
                }
                _ => self.unknown_key(section.span().start, name),
            }
        }
    }

    fn section(&mut self, section: &str, keys: &DeTable) {
        for (key, value) in keys {
            let name = format!("{section}.{}", key.get_ref());
            let offset = key.span().start;
            let Some(known) = KEYS.iter().find(|known| known.name == name) else {
                self.unknown_key(offset, &name);
                continue;
            };
            match known.effect {
                Effect::Now => {}
                Effect::NotYet => self.idle.push(Idle { line: self.line(offset), key: known.name.into() }),
            }
            self.value(known.name, &known.kind, value);
        }
        if section == "audio" {
            self.audio_files(keys);
        }
    }

    /// What is heard must not be written over what is to be spoken.
    fn audio_files(&mut self, keys: &DeTable) {
        let file = |key: &str| keys.get(key).and_then(|value| text(value).ok().map(|path| (value.span().start, path)));
        if let (Some((_, input)), Some((offset, output))) = (file("input_file"), file("output_file"))
            && !output.is_empty()
            && Path::new(input) == Path::new(output)
        {
            let cause = "this is the file that audio.input_file names, and it would be overwritten";
            self.mistake(offset, "audio.output_file", wrong(cause, "name another file"));
        }
    }

    fn unknown_key(&mut self, offset: usize, name: &str) {
        let nearest = keys::nearest_key(name);
        let (section, key) = nearest.split_once('.').unwrap_or_default();
        let remedy = match name.contains('.') {
            true => format!("did you mean {nearest}?"),
            false => format!("did you mean {key} below [{section}]?"),
        };
        self.mistake(offset, name, wrong("there is no such key", remedy));
    }

    fn value(&mut self, key: &str, kind: &Kind, value: &Spanned<DeValue>) {
        let right = match kind {
            Kind::Switch => match value.get_ref() {
                DeValue::Boolean(_) => Ok(()),
                other => Err(wrong(is_not(other, "true or false"), "write true or false, without quotes")),
            },
            Kind::Text => text(value).map(|_| ()),
            Kind::Name => name(value),
            Kind::Word(words) => word(value, words),
            Kind::Seconds(range) => seconds(value, range),
            Kind::Listen => return self.list(key, value, |item| keys::check_listen(text(item)?)),
            Kind::Dial => return self.list(key, value, |item| keys::check_dial(text(item)?)),
            Kind::Names => return self.list(key, value, name),
            Kind::IceServers => return self.ice_servers(key, value),
        };
        if let Err(wrong) = right {
            self.mistake(value.span().start, key, wrong);
        }
    }

    fn list(&mut self, key: &str, value: &Spanned<DeValue>, right: impl Fn(&Spanned<DeValue>) -> Result<(), Wrong>) {
        let DeValue::Array(items) = value.get_ref() else {
            let cause = is_not(value.get_ref(), "a list");
            return self.mistake(value.span().start, key, wrong(cause, "put it in square brackets: [\"…\", \"…\"]"));
        };
        for item in items.iter() {
            if let Err(wrong) = right(item) {
                self.mistake(item.span().start, key, wrong);
            }
        }
    }

    fn ice_servers(&mut self, key: &str, value: &Spanned<DeValue>) {
        let remedy = "write it like [{ urls = [\"stun:stun.example.org:3478\"] }]";
        let DeValue::Array(servers) = value.get_ref() else {
            let cause = is_not(value.get_ref(), "a list of servers");
            return self.mistake(value.span().start, key, wrong(cause, remedy));
        };
        for server in servers.iter() {
            match server.get_ref() {
                DeValue::Table(server_keys) => self.ice_server(key, server.span().start, server_keys),
                other => self.mistake(server.span().start, key, wrong(is_not(other, "a server"), remedy)),
            }
        }
    }

    fn ice_server(&mut self, key: &str, offset: usize, server: &DeTable) {
        let (mut turn, mut username, mut credential, mut urls) = (false, false, false, false);
        for (name, value) in server {
            let full = format!("{key}.{}", name.get_ref());
            let filled = text(value).is_ok_and(|text| !text.is_empty());
            match name.get_ref().as_ref() {
                "urls" => {
                    urls = !matches!(value.get_ref(), DeValue::Array(urls) if urls.is_empty());
                    if let DeValue::Array(urls) = value.get_ref() {
                        turn = urls.iter().any(|url| text(url).is_ok_and(|url| url.starts_with("turn")));
                    }
                    self.ice_urls(&full, value);
                }
                "username" => {
                    username = filled;
                    self.value(&full, &Kind::Text, value);
                }
                "credential" => {
                    credential = filled;
                    self.value(&full, &Kind::Text, value);
                }
                other => {
                    let nearest = keys::nearest_word(other, keys::ICE_SERVER_KEYS);
                    let wrong = wrong("there is no such key", format!("did you mean {nearest}?"));
                    self.mistake(name.span().start, &full, wrong);
                }
            }
        }
        if !urls {
            self.mistake(offset, key, wrong("a server has no urls", "add urls = [\"stun:HOST:PORT\"]"));
        } else if turn && !(username && credential) {
            let remedy = "add username = \"…\" and credential = \"…\"";
            self.mistake(offset, key, wrong("a TURN server needs a username and a credential", remedy));
        }
    }

    fn ice_urls(&mut self, key: &str, value: &Spanned<DeValue>) {
        self.list(key, value, |url| keys::check_ice_url(text(url)?).map(|_| ()));
        let DeValue::Array(urls) = value.get_ref() else { return };
        for url in urls.iter().filter(|url| is_idle(url)) {
            let key = format!("{key} {:?}", text(url).unwrap_or_default());
            self.idle.push(Idle { line: self.line(url.span().start), key });
        }
    }
}

fn is_idle(url: &Spanned<DeValue>) -> bool {
    text(url).and_then(keys::check_ice_url) == Ok(Effect::NotYet)
}

fn text<'a>(value: &'a Spanned<DeValue>) -> Result<&'a str, Wrong> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text),
        other => Err(wrong(is_not(other, "a text"), "write it in quotes")),
    }
}

fn name(value: &Spanned<DeValue>) -> Result<(), Wrong> {
    match text(value)? {
        "" => Err(wrong("an empty text names nothing", "write a name, or leave the key out for the default")),
        _ => Ok(()),
    }
}

fn word(value: &Spanned<DeValue>, words: &[&str]) -> Result<(), Wrong> {
    let listed = words.join(", ");
    let DeValue::String(text) = value.get_ref() else {
        return Err(wrong(is_not(value.get_ref(), "a text"), format!("write one of these in quotes: {listed}")));
    };
    if words.contains(&text.as_ref()) {
        return Ok(());
    }
    let nearest = keys::nearest_word(text, words.iter().copied());
    Err(wrong(format!("{text:?} is none of {listed}"), format!("did you mean {nearest:?}?")))
}

fn seconds(value: &Spanned<DeValue>, range: &std::ops::RangeInclusive<u32>) -> Result<(), Wrong> {
    let remedy = format!("write a whole number from {} to {}", range.start(), range.end());
    match value.get_ref() {
        DeValue::Integer(number) => {
            let inside = i64::from_str_radix(number.as_str(), number.radix())
                .is_ok_and(|number| u32::try_from(number).is_ok_and(|number| range.contains(&number)));
            if inside { Ok(()) } else { Err(wrong(format!("{number} seconds are out of range"), remedy)) }
        }
        other => Err(wrong(is_not(other, "a number of seconds"), remedy)),
    }
}

fn is_not(value: &DeValue, expected: &str) -> String {
    let found = match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    format!("this is {found}, not {expected}")
}

#[cfg(test)]
mod tests;
