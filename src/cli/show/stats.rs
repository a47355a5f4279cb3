//! How well each participant is heard, and how the own voice goes there: a few lines for each.

use serde_json::Value;

use super::{facts, line, list, person, spoken, word};

/// `telecon stats`
pub fn stats(answer: &Value) -> String {
    let legs = list(answer, "legs");
    let mut text: String = legs.iter().map(leg).collect();
    if legs.is_empty() {
        text = line("nobody is connected");
    }
    let dropped = answer["rejected"].as_object().into_iter().flatten();
    let dropped: Vec<String> = dropped.map(|(reason, count)| format!("{count} {}", reason.replace('_', " "))).collect();
    if !dropped.is_empty() {
        text.push_str(&line(&format!("dropped signals: {}", dropped.join(", "))));
    }
    text
}

fn leg(leg: &Value) -> String {
    let of = |key: &str| figure(&leg[key]);
    let mut all = vec![
        (
            "network",
            format!(
                "round trip {} ms, jitter {} ms, {} % lost, {} kbit/s received",
                of("rtt_ms"),
                of("jitter_ms"),
                of("loss_pct"),
                of("recv_kbps")
            ),
        ),
        (
            "heard",
            format!(
                "{} ms after it arrived, at {} dB, {} % made up, first after {} ms",
                of("playout_delay_ms"),
                of("level_db"),
                of("concealed_pct"),
                of("connected_ms")
            ),
        ),
    ];
    if leg["delay_ms"].is_object() {
        let share = |stage: &str| figure(&leg["delay_ms"][stage]);
        let (buffer, decoded, ring) = (share("jitter_buffer"), share("decoded"), share("ring"));
        let (capture, processing, frame) = (share("capture"), share("processing"), share("frame"));
        all.push((
            "delay in",
            format!("jitter buffer {buffer} (wants {}), ", of("target_delay_ms"))
                + &format!("decoded {decoded}, ring {ring}, device {} ms", share("device")),
        ));
        all.push(("delay out", format!("capture {capture}, processing {processing}, frame {frame} ms")));
        all.push((
            "repaired",
            format!("{} by copy, {} by FEC, ", of("recovered_by_copy"), of("recovered_by_fec"))
                + &format!("{} by DRED; {} late, {} stretches", of("recovered_by_dred"), of("late"), of("stretches")),
        ));
    }
    all.extend(sent(leg).map(|sent| ("sent", sent)));
    let facts = facts(&all).lines().map(|line| format!("  {line}\n")).collect::<String>();
    line(&format!("{}: {}", person(leg), spoken(&leg["state"]))) + &facts
}

/// How the own voice goes to one participant; nothing before it does.
fn sent(leg: &Value) -> Option<String> {
    let figure = |key: &str| leg[key].as_f64().filter(|figure| *figure > 0.0);
    let (bitrate, frame, wire) = (figure("bitrate_kbps")?, figure("frame_ms")?, figure("wire_kbps")?);
    let mut text = format!("{bitrate:.0} kbit/s in frames of {frame} ms, {wire:.0} kbit/s on the wire");
    let copies: Vec<String> = leg["redundancy_ms"].as_array().into_iter().flatten().map(Value::to_string).collect();
    if !copies.is_empty() {
        text += &format!("\nsent again after {} ms", copies.join(", "));
    }
    if let Some(loss) = figure("remote_loss_pct") {
        text += &format!("\n{loss:.1} % lost on the way");
        if let Some(outage) = figure("remote_outage_ms") {
            text += &format!(", up to {outage:.0} ms at once");
        }
    }
    Some(text)
}

fn figure(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if number.fract() == 0.0 => format!("{number:.0}"),
        Some(number) => format!("{number:.1}"),
        None => word(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_participant_has_a_few_lines_and_then_comes_what_was_dropped() {
        let delay = json!({
            "capture": 5, "processing": 0, "frame": 20, "jitter_buffer": 8.25, "decoded": 0, "ring": 10,
            "device": 12.5,
        });
        let shown = stats(&json!({
            "legs": [
                { "name": "bob", "state": "joined", "rtt_ms": 12.34, "jitter_ms": 1, "loss_pct": 0.0, "recv_kbps": 33.5,
                  "playout_delay_ms": 30.75, "level_db": -24.0, "concealed_pct": 1.57, "connected_ms": 82,
                  "delay_ms": delay, "target_delay_ms": 6, "recovered_by_copy": 3, "recovered_by_fec": 1, "recovered_by_dred": 7,
                  "late": 2, "stretches": 4, "bitrate_kbps": 32, "frame_ms": 20, "wire_kbps": 83.4,
                  "redundancy_ms": [40, 200], "remote_loss_pct": 5, "remote_outage_ms": 180 },
                { "did": "did:key:zEve", "name": null, "state": "on_hold", "level_db": null },
            ],
            "rejected": { "bad_signature": 2 },
        }));
        let expected = "\
bob: joined
  network    round trip 12.3 ms, jitter 1 ms, 0 % lost, 33.5 kbit/s received
  heard      30.8 ms after it arrived, at -24 dB, 1.6 % made up, first after 82 ms
  delay in   jitter buffer 8.2 (wants 6), decoded 0, ring 10, device 12.5 ms
  delay out  capture 5, processing 0, frame 20 ms
  repaired   3 by copy, 1 by FEC, 7 by DRED; 2 late, 4 stretches
  sent       32 kbit/s in frames of 20 ms, 83 kbit/s on the wire
             sent again after 40, 200 ms
             5.0 % lost on the way, up to 180 ms at once
did:key:zEve: on hold
  network  round trip - ms, jitter - ms, - % lost, - kbit/s received
  heard    - ms after it arrived, at - dB, - % made up, first after - ms
dropped signals: 2 bad signature
";
        assert_eq!(shown, expected);
        assert_eq!(stats(&json!({ "legs": [] })), "nobody is connected\n");
    }

    #[test]
    fn a_line_fits_a_hundred_columns_whatever_the_figures_are() {
        let keys = "rtt_ms jitter_ms loss_pct recv_kbps playout_delay_ms level_db concealed_pct connected_ms target_delay_ms \
                    recovered_by_copy recovered_by_fec recovered_by_dred late stretches bitrate_kbps frame_ms wire_kbps \
                    remote_loss_pct remote_outage_ms";
        let mut leg = json!({ "did": "did:key:z6Mk".to_owned() + &"x".repeat(44), "state": "reconnecting" });
        keys.split_whitespace().for_each(|key| leg[key] = 9999.9.into());
        let stages = ["capture", "processing", "frame", "jitter_buffer", "decoded", "ring", "device"];
        stages.iter().for_each(|stage| leg["delay_ms"][*stage] = 9999.9.into());
        leg["redundancy_ms"] = json!([100, 200, 340]);
        let shown = stats(&json!({ "legs": [leg] }));
        let widest = shown.lines().map(str::len).max();
        assert!(widest <= Some(100), "{widest:?}: {shown}");
        assert_eq!(shown.matches("9999.9").count(), 23, "{shown}");
    }
}
