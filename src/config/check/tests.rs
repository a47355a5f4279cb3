//! One mistake, one sentence: place, key, cause and remedy, word for word.

use super::*;

fn mistakes(text: &str) -> Vec<String> {
    match check(text, Path::new("t.toml")) {
        Err(ConfigError::Mistakes(mistakes)) => mistakes.iter().map(ToString::to_string).collect(),
        other => panic!("{text:?} should be wrong, not {other:?}"),
    }
}

#[track_caller]
fn one_mistake(text: &str, expected: &str) {
    assert_eq!(mistakes(text), [expected]);
}

#[test]
fn an_unknown_key_names_its_place_and_the_nearest_known_one() {
    one_mistake(
        "# a comment\n[network]\nlisen = []\n",
        "t.toml:3: network.lisen: there is no such key; did you mean network.listen?",
    );
    one_mistake(
        "[audio]\nring_seconds = 3",
        "t.toml:2: audio.ring_seconds: there is no such key; did you mean call.ring_seconds?",
    );
    one_mistake("mdns = false", "t.toml:1: mdns: there is no such key; did you mean mdns below [network]?");
    one_mistake(
        "[network]\nice_servers = [{ url = \"stun:a.example\", urls = [\"stun:a.example\"] }]",
        "t.toml:2: network.ice_servers.url: there is no such key; did you mean urls?",
    );
}

#[test]
fn an_unknown_section_names_the_nearest_known_one() {
    one_mistake("[netwrok]\nmdns = true", "t.toml:1: netwrok: there is no such section; did you mean [network]?");
    one_mistake(
        "audio = 3",
        "t.toml:1: audio: this is a section, not a key; begin the section with a line that says [audio]",
    );
}

#[test]
fn a_value_of_the_wrong_type_says_what_it_is_and_what_it_should_be() {
    one_mistake(
        "[network]\nmdns = \"yes\"",
        "t.toml:2: network.mdns: this is a text, not true or false; write true or false, without quotes",
    );
    one_mistake(
        "[network]\npeers = \"/ip4/192.0.2.7/tcp/4001\"",
        "t.toml:2: network.peers: this is a text, not a list; put it in square brackets: [\"…\", \"…\"]",
    );
    one_mistake("[audio]\ninput = 3", "t.toml:2: audio.input: this is a whole number, not a text; write it in quotes");
    one_mistake(
        "[call]\nring_seconds = 4.5",
        "t.toml:2: call.ring_seconds: this is a number with a fraction, not a number of seconds; write a whole number from 1 to 3600",
    );
    one_mistake(
        "[network]\nice_servers = [\"stun:a.example\"]",
        "t.toml:2: network.ice_servers: this is a text, not a server; write it like [{ urls = [\"stun:stun.example.org:3478\"] }]",
    );
}

#[test]
fn a_value_out_of_range_says_the_range() {
    for seconds in ["0", "3601", "-1", "99999999999999999999"] {
        one_mistake(
            &format!("[call]\nring_seconds = {seconds}"),
            &format!(
                "t.toml:2: call.ring_seconds: {seconds} seconds are out of range; write a whole number from 1 to 3600"
            ),
        );
    }
    assert_eq!(check("[call]\ngrace_seconds = 0", Path::new("t")).expect("allowed").config.call.grace_seconds, 0);
}

#[test]
fn an_unknown_word_names_all_words_and_the_nearest() {
    one_mistake(
        "[audio]\nbackend = \"pulse\"",
        "t.toml:2: audio.backend: \"pulse\" is none of auto, pipewire, pulseaudio, alsa, file, null; did you mean \"pulseaudio\"?",
    );
    one_mistake(
        "[call]\nauto_accept = true",
        "t.toml:2: call.auto_accept: this is true or false, not a text; write one of these in quotes: none, contacts, all",
    );
}

#[test]
fn a_bad_address_is_named_with_its_own_line() {
    let found = mistakes(
        "[network]\nlisten = [\n  \"/ip4/0.0.0.0/tcp/0\",\n  \"0.0.0.0:4001\",\n]\npeers = [\"bob\"]\nbootstrap = [\"x\"]",
    );
    assert_eq!(found.len(), 3);
    assert!(found[0].starts_with("t.toml:4: network.listen: \"0.0.0.0:4001\" is not a multiaddr ("), "{found:?}");
    assert!(found[0].ends_with("; write it like /ip4/0.0.0.0/udp/0/quic-v1 or /ip6/::/tcp/0"), "{found:?}");
    assert!(found[1].starts_with("t.toml:6: network.peers: \"bob\" cannot be dialled; not a multiaddr; "), "{found:?}");
    assert!(
        found[2].starts_with("t.toml:7: network.bootstrap: \"x\" cannot be dialled; not a multiaddr; "),
        "{found:?}"
    );
}

#[test]
fn a_bad_ice_server_says_what_it_lacks() {
    one_mistake(
        "[network]\nice_servers = [{ urls = [\"http://a.example\"] }]",
        "t.toml:2: network.ice_servers.urls: \"http://a.example\" is not the URL of a STUN or TURN server; write it like stun:stun.example.org:3478 or turn:turn.example.org:3478",
    );
    one_mistake(
        "[[network.ice_servers]]\nurls = [\"turn:a.example\"]\nusername = \"me\"",
        "t.toml:1: network.ice_servers: a TURN server needs a username and a credential; add username = \"…\" and credential = \"…\"",
    );
    one_mistake(
        "[[network.ice_servers]]\nusername = \"me\"",
        "t.toml:1: network.ice_servers: a server has no urls; add urls = [\"stun:HOST:PORT\"]",
    );
}

#[test]
fn a_credential_never_stands_in_a_message() {
    let text = "[[network.ice_servers]]\nurls = [\"turn:a.example\"]\ncredential = \"geheim\"";
    assert!(!mistakes(text).concat().contains("geheim"));
}

#[test]
fn what_is_no_toml_is_one_sentence_with_its_line() {
    let found = mistakes("[call]\nring_seconds = \n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("t.toml:2: this is not TOML: "), "{found:?}");
    assert!(!found[0].contains('\n'), "{found:?}");
    let found = mistakes("[call]\nring_seconds = 3\nring_seconds = 4\n");
    assert!(found[0].starts_with("t.toml:3: this is not TOML: "), "{found:?}");
}

#[test]
fn all_mistakes_are_told_at_once_in_the_files_order() {
    let found = mistakes("[call]\nring_seconds = 0\n[network]\nlisen = []\nmdns = 1\n");
    let lines: Vec<&str> = found.iter().map(|mistake| &mistake[..8]).collect();
    assert_eq!(lines, ["t.toml:2", "t.toml:4", "t.toml:5"]);
}

#[test]
fn keys_without_effect_are_told_when_they_are_set() {
    let text = "[audio]\nauto_gain = false\n[network]\ndht = true\nmdns = false\n\
                ice_servers = [{ urls = [\"turns:a.example\", \"turn:a.example\"], username = \"me\", credential = \"x\" }]";
    let idle = check(text, Path::new("t.toml")).expect("right").idle;
    let told: Vec<(usize, &str)> = idle.iter().map(|idle| (idle.line, idle.key.as_str())).collect();
    assert_eq!(told, [(4, "network.dht"), (6, "network.ice_servers.urls \"turns:a.example\"")]);
    assert_eq!(check("", Path::new("t.toml")).expect("right").idle, []);
}

#[test]
fn whatever_is_set_is_what_the_program_reads() {
    let text =
        "network.mdns = false\n[audio]\nbackend = \"file\"\ninput_file = \"a.wav\"\n[call]\nauto_accept = \"contacts\"";
    let config = check(text, Path::new("t.toml")).expect("right").config;
    assert!(!config.network.mdns);
    assert_eq!(config.audio.backend, crate::config::Backend::File);
    assert_eq!(config.audio.input_file, "a.wav");
    assert_eq!(config.call.auto_accept, crate::config::AutoAccept::Contacts);
    assert_eq!(config.call.ring_seconds, 45);
}

#[test]
fn what_is_to_be_spoken_is_not_overwritten() {
    one_mistake(
        "[audio]\ninput_file = \"/tmp/a.wav\"\noutput_file = \"/tmp//a.wav\"",
        "t.toml:3: audio.output_file: this is the file that audio.input_file names, and it would be overwritten; name another file",
    );
    assert!(check("[audio]\ninput_file = \"\"\noutput_file = \"\"", Path::new("t.toml")).is_ok());
}
