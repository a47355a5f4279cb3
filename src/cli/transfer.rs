//! Contacts to and from a file: one JSON object a line, so that it can be read, cut and joined with any tool.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde_json::Value;

use crate::{
    client::Client,
    control::{
        MAX_REQUEST_BYTES,
        wire::{ContactEntry, Method},
    },
};

use super::{
    exit::{self, CliError},
    show,
    text::{self, Printer},
};

/// `telecon contacts import`: in one request, so that all or none are added.
pub async fn import(socket: &Path, file: &Path, rename: bool, mut printer: Printer) -> Result<(), CliError> {
    let contacts = entries(&read(file)?, file)?;
    let method = Method::ContactImport { contacts, rename };
    // The rest of the line is the request's frame.
    if serde_json::to_string(&method).is_ok_and(|json| json.len() + 256 > MAX_REQUEST_BYTES) {
        return Err(too_long(file));
    }
    let answer = Client::connect(socket).await?.request(method, None).await?;
    printer.answer(&answer, show::imported)
}

/// `telecon contacts export`
pub fn lines(answer: &Value) -> String {
    let contacts = answer["contacts"].as_array().into_iter().flatten();
    contacts.map(|contact| text::json_line(contact) + "\n").collect()
}

fn read(file: &Path) -> Result<String, CliError> {
    let mut text = Vec::new();
    // What is longer can be no single request.
    let limit = MAX_REQUEST_BYTES as u64 + 1;
    let read = if file == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut text)
    } else {
        File::open(file).and_then(|open| open.take(limit).read_to_end(&mut text))
    };
    let length = read.map_err(|error| bad(format!("{} cannot be read: {error}", file.display())))?;
    if length > MAX_REQUEST_BYTES {
        return Err(too_long(file));
    }
    String::from_utf8(text).map_err(|_| bad(format!("{} is no text in UTF-8", file.display())))
}

fn entries(text: &str, file: &Path) -> Result<Vec<ContactEntry>, CliError> {
    let mut entries = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let entry = serde_json::from_str(line).map_err(|error| {
            let cause = error.to_string();
            // The line within the line is always the first.
            let cause = cause.split(" at line ").next().unwrap_or_default();
            bad(format!(
                "{}:{}: {cause}; write one contact a line, as telecon contacts export does",
                file.display(),
                at + 1
            ))
        })?;
        entries.push(entry);
    }
    if entries.is_empty() {
        return Err(bad(format!("there is no contact in {}", file.display())));
    }
    Ok(entries)
}

fn too_long(file: &Path) -> CliError {
    let kib = MAX_REQUEST_BYTES / 1024;
    bad(format!(
        "{} has more than the {kib} KiB of one import; cut it first: split -l 200 {}",
        file.display(),
        file.display()
    ))
}

fn bad(message: String) -> CliError {
    CliError::new(exit::BAD_DATA, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::io::Policy;

    fn read_back(text: &str) -> Result<Vec<ContactEntry>, String> {
        entries(text, Path::new("c.jsonl")).map_err(|error| error.message)
    }

    #[test]
    fn what_is_exported_can_be_imported() {
        let bob = json!({
            "did": "did:key:zBob", "name": "b\u{202e}ob", "address": "/ip4/192.0.2.7/tcp/1",
            "policy": "block", "volume_percent": 30, "audio_blocked": true,
        });
        let carol = json!({ "did": "did:key:zCarol", "name": "carol" });
        let text = lines(&json!({ "contacts": [bob, carol] }));
        assert!(!text.contains('\u{202e}'), "a name steers no terminal: {text}");
        let back = read_back(&text).unwrap();
        assert_eq!((back[0].policy, back[0].volume_percent, back[1].policy), (Some(Policy::Block), Some(30), None));
        assert_eq!(serde_json::to_value(&back).unwrap(), json!([bob, carol]));
    }

    #[test]
    fn a_wrong_line_is_named_and_empty_lines_are_not() {
        let good = r#"{"did":"did:key:zBob","name":"bob"}"#;
        assert_eq!(read_back(&format!("\n{good}\n  \n")).unwrap().len(), 1);
        for (bad, cause) in [
            (r#"{"did":"did:key:zBob"}"#, "missing field `name`"),
            (r#"{"did":"did:key:zBob","name":"bob","polcy":"block"}"#, "unknown field `polcy`"),
            (r#"{"did":"did:key:zBob","name":"bob","policy":"deny"}"#, "unknown variant `deny`"),
            ("bob", "expected value"),
        ] {
            let message = read_back(&format!("{good}\n\n{bad}\n")).unwrap_err();
            assert!(message.starts_with(&format!("c.jsonl:3: {cause}")), "{message}");
        }
        assert_eq!(read_back(" \n").unwrap_err(), "there is no contact in c.jsonl");
    }
}
