//! What reaches the terminal: strangers' characters escaped, columns aligned, a closed pipe taken as the end.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde_json::Value;

use super::exit::CliError;
use crate::text::is_dangerous;

/// Longest line of an error that is shown whole.
const MAX_LINE_CHARS: usize = 1000;

/// Writes answers to stdout, for people or for scripts.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    json: bool,
}

impl Printer {
    /// `json`: one JSON object a line, as the daemon gives it.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON is asked for.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// One answer. `show` must have escaped what others wrote.
    pub fn answer(&mut self, answer: &Value, show: fn(&Value) -> String) -> Result<(), CliError> {
        let text = if self.json { json_line(answer) } else { show(answer) };
        self.print(&text)
    }

    /// Text as it is, and a newline if it has none.
    pub fn print(&mut self, text: &str) -> Result<(), CliError> {
        if text.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            stdout.write_all(b"\n")?;
        }
        Ok(stdout.flush()?)
    }
}

/// A line of an error. What somebody typed or a file holds may stand in it, however long: then the middle is left out, since the cause
/// and the remedy stand at the end.
pub fn bounded(line: &str) -> Cow<'_, str> {
    let chars = line.chars().count();
    if chars <= MAX_LINE_CHARS {
        return Cow::Borrowed(line);
    }
    let tail = line.chars().skip(chars - MAX_LINE_CHARS / 2);
    Cow::Owned(line.chars().take(MAX_LINE_CHARS / 4).chain(['…']).chain(tail).collect())
}

/// One line of text that is safe on a terminal.
pub fn safe(text: &str) -> Cow<'_, str> {
    if !text.contains(is_dangerous) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_dangerous(c) { safe.extend(c.escape_default()) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// As [`safe`], line by line, with a newline at the end.
pub fn safe_lines(text: &str) -> String {
    text.lines().map(|line| safe(line) + "\n").collect()
}

/// One line of JSON without any character that is dangerous on a terminal: they can stand in strings only, where JSON can
/// escape them.
pub fn json_line(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(is_dangerous) {
        return text;
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_dangerous(c) {
            let mut units = [0; 2];
            safe.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Rows under a heading, in columns that are as wide as they need to be. Cells are made safe.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(&heading)
        .chain(rows)
        .map(|row| row.iter().map(|cell| safe(cell).into_owned()).collect())
        .collect();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  "));
        cells.collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Names and values, a line each; a value of several lines is indented.
pub fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in facts {
        for (at, line) in value.lines().enumerate() {
            let name = if at == 0 { name } else { "" };
            text.push_str(&format!("{name:<width$}  {}\n", safe(line)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        assert_eq!(safe("\u{1b}[31mred\r\n\u{7f}\u{9b}2J"), "\\u{1b}[31mred\\r\\n\\u{7f}\\u{9b}2J");
        assert_eq!(safe("\u{202e}bob\u{2066}"), "\\u{202e}bob\\u{2066}");
        assert_eq!(safe("Zoë 👩\u{200d}🔬 ıñ"), "Zoë 👩\u{200d}🔬 ıñ");
    }

    #[test]
    fn of_an_endless_line_the_beginning_and_the_end_are_shown() {
        let shown = bounded("do what you can").into_owned();
        assert_eq!(shown, "do what you can");
        let endless = format!("no file {}: name too long; take another", "ß".repeat(100_000));
        let shown = bounded(&endless);
        assert!(shown.chars().count() < MAX_LINE_CHARS, "{}", shown.len());
        assert!(
            shown.starts_with("no file ßß") && shown.contains('…') && shown.ends_with("ß: name too long; take another")
        );
    }

    #[test]
    fn json_keeps_its_meaning_and_has_no_dangerous_character() {
        let value = json!({ "name": "a\u{9b}\u{1b}\u{202e}\u{e0041}\"b" });
        let line = json_line(&value);
        assert!(!line.contains(is_dangerous), "{line}");
        assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON"), value);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".into(), "b\n".into()], vec!["long".into(), "c".into()]];
        assert_eq!(table(&["X", "Y"], &rows), "X     Y\na     b\\n\nlong  c\n");
    }

    #[test]
    fn facts_are_aligned_and_safe() {
        let shown = facts(&[("did", "x\u{1b}".into()), ("listen", "a\nb".into())]);
        assert_eq!(shown, "did     x\\u{1b}\nlisten  a\n        b\n");
    }
}
