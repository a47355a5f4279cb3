//! The house rules that a compiler does not hold: the core stays pure, files stay readable, nothing unowned is left.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A file that is longer wants to be two.
const MAX_LINES: usize = 600;

fn sources(under: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(under)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a readable folder").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a readable source");
            found.push((path, text));
        }
    }
    assert!(!found.is_empty(), "nothing under {under}: the test looks in the wrong place");
    found
}

/// Lines with their numbers, comments left out.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn offences(under: &str, words: &[&str]) -> Vec<String> {
    let mut offences = Vec::new();
    for (path, text) in sources(under) {
        for (number, line) in code_lines(&text) {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                offences.push(format!("{}:{number} says {word}", path.display()));
            }
        }
    }
    offences
}

#[test]
fn the_core_knows_no_runtime_no_network_and_no_clock() {
    let words = ["tokio", "libp2p", "webrtc::", "rtc::", "cpal", "async fn", "Instant::now", "SystemTime::now"];
    // Its tests need some moment to begin with.
    let found: Vec<String> = offences("src/proto", &words).into_iter().filter(|at| !at.contains("/tests")).collect();
    assert!(found.is_empty(), "src/proto decides and does nothing:\n{}", found.join("\n"));
}

#[test]
fn no_file_is_too_long_to_read() {
    for under in ["src", "tests"] {
        for (path, text) in sources(under) {
            let lines = text.lines().count();
            assert!(lines <= MAX_LINES, "{} has {lines} lines; split it by what it is for", path.display());
        }
    }
}

#[test]
fn every_file_says_first_what_it_is_for() {
    for under in ["src", "tests"] {
        for (path, text) in sources(under) {
            assert!(text.starts_with("//!"), "{} does not begin with what it is for", path.display());
        }
    }
}

#[test]
fn nothing_is_left_unowned_or_unfinished() {
    // Put together here, so that this file does not accuse itself.
    let words = [["TO", "DO"], ["FIX", "ME"], ["todo", "!("], ["unimple", "mented!"], ["#[al", "low("]]
        .map(|word| word.concat());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for under in ["src", "tests"] {
        let found = offences(under, &words);
        assert!(found.is_empty(), "finish it, or write down whose it is:\n{}", found.join("\n"));
    }
}

#[test]
fn each_foreign_stack_is_named_in_its_own_room_only() {
    let rooms = [
        ("webrtc::", "src/leg"),
        ("cpal::", "src/audio"),
        ("rusqlite::", "src/store"),
        ("bincode::", "src/proto/wire"),
    ];
    for (word, room) in rooms {
        let found: Vec<String> = offences("src", &[word]).into_iter().filter(|at| !at.contains(room)).collect();
        assert!(found.is_empty(), "{word} belongs into {room}:\n{}", found.join("\n"));
    }
}
