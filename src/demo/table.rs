//! The demo's result for people: a table of who heard whom. The command line prints it.

use std::fmt::Write as _;

use super::{
    report::{HeardOf, Participant, Report},
    score::HEARD,
};

/// The result as text: who heard whom, how well, and where the recordings are.
pub fn table(report: &Report) -> String {
    let mut out = String::from("\nListener  heard     correlation    level   latency    loss  gaps\n");
    for listener in &report.participants {
        for (row, heard) in listener.heard.iter().enumerate() {
            let name = if row == 0 { listener.name } else { "" };
            line(&mut out, name, heard);
        }
    }
    let connected = report.connected_ms.map_or_else(|| "unknown".into(), |ms| format!("{ms} ms"));
    text(
        &mut out,
        format_args!(
            "(Correlation: 1 is the same sound, {HEARD} the limit; level in dBFS; latency from mouth to ear.)"
        ),
    );
    out.push('\n');
    text(&mut out, format_args!("Set-up: {} ms until everybody had audio of everybody.", report.setup_ms));
    text(&mut out, format_args!("From accept to first audio: {connected} (median of all connections).\n"));
    out.push_str("What each heard:\n");
    for listener in &report.participants {
        text(&mut out, format_args!("  {}", plain(&listener.wav.to_string_lossy())));
    }
    out.push('\n');
    out.push_str(&verdict(report));
    out
}

fn line(out: &mut String, listener: &str, heard: &HeardOf) {
    let latency = heard.latency_ms.map_or_else(|| "-".into(), |ms| format!("{ms:.0} ms"));
    let loss = heard.loss_pct.map_or_else(|| "-".into(), |pct| format!("{pct:.1} %"));
    let level = format!("{:.1} dB", heard.level_db);
    let missing = if heard.correlation < HEARD { "  NOT HEARD" } else { "" };
    let (name, correlation, gaps) = (heard.name, heard.correlation, heard.gaps);
    text(
        out,
        format_args!("{listener:<10}{name:<10}{correlation:>11.2}{level:>9}{latency:>10}{loss:>8}{gaps:>6}{missing}"),
    );
}

fn verdict(report: &Report) -> String {
    if report.ok {
        return "Everybody heard everybody.\n".into();
    }
    let mut out = String::new();
    for Participant { name, heard, .. } in &report.participants {
        for missing in heard.iter().filter(|heard| heard.correlation < HEARD) {
            text(&mut out, format_args!("{name} did not hear {}.", missing.name));
        }
    }
    if out.is_empty() {
        out.push_str("The listeners heard the voices in different orders: speakers are swapped.\n");
    }
    out
}

fn text(out: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    writeln!(out, "{line}").ok();
}

/// Without control characters, which could move the terminal's cursor.
fn plain(line: &str) -> String {
    line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(correlation: f64, in_turn: bool) -> Report {
        let heard = |name, correlation| HeardOf {
            did: format!("did:{name}"),
            name,
            level_db: -29.53,
            correlation,
            gaps: 0,
            repetitions: 2,
            latency_ms: (correlation >= HEARD).then_some(61.4),
            loss_pct: Some(0.0),
        };
        let listener = |name, heard| Participant {
            did: format!("did:{name}"),
            name,
            heard,
            wav: format!("/tmp/heard-by-{name}\x1b[2J.wav").into(),
        };
        Report {
            participants: vec![
                listener("Ada", vec![heard("Ben", correlation)]),
                listener("Ben", vec![heard("Ada", 0.97)]),
            ],
            setup_ms: 212,
            connected_ms: Some(83),
            in_turn,
            ok: correlation >= HEARD && in_turn,
        }
    }

    #[test]
    fn the_table_says_who_heard_whom_and_where_the_recordings_are() {
        let shown = table(&report(0.953, true));
        println!("{shown}");
        assert!(shown.contains("Ada       Ben              0.95 -29.5 dB     61 ms   0.0 %     0\n"), "{shown}");
        assert!(shown.contains("212 ms") && shown.contains("83 ms (median"));
        assert!(shown.contains("heard-by-Ada\u{fffd}[2J.wav") && !shown.contains('\x1b'));
        assert!(shown.ends_with("Everybody heard everybody.\n"));
    }

    #[test]
    fn a_failure_names_who_did_not_hear_whom() {
        let shown = table(&report(0.31, true));
        assert!(shown.contains("NOT HEARD") && shown.ends_with("Ada did not hear Ben.\n"), "{shown}");
        let shown = table(&report(0.95, false));
        assert!(
            shown.ends_with("The listeners heard the voices in different orders: speakers are swapped.\n"),
            "{shown}"
        );
    }
}
