//! What can be typed and what cannot.

use clap::CommandFactory;

use super::*;

fn verb(line: &str) -> Verb {
    Args::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}")).verb
}

#[test]
fn the_parser_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn every_verb_of_the_first_release_is_there() {
    assert_eq!(
        verb("telecon call bob carol --wait"),
        Verb::Call { who: vec!["bob".into(), "carol".into()], closed: false, wait: true }
    );
    assert_eq!(verb("telecon decline 0b1e"), Verb::Reject { call: Some("0b1e".into()), reason: None, text: None });
    assert_eq!(verb("telecon hangup"), Verb::Hangup { call: None });
    assert_eq!(verb("telecon accept 0b1e"), Verb::Accept { call: Some("0b1e".into()), leave: false });
    assert_eq!(verb("telecon watch --since 7"), Verb::Watch { since: Some(7) });
    assert_eq!(verb("telecon daemon --config a.toml"), Verb::Daemon { config: Some("a.toml".into()) });
    assert_eq!(verb("telecon demo"), Verb::Demo { participants: 3, seconds: 10 });
    let add = ContactVerb::Add { did: "did:key:z".into(), name: "bob".into(), address: Some("/ip4/x".into()) };
    assert_eq!(verb("telecon contacts add did:key:z bob --address /ip4/x"), Verb::Contacts { verb: add });
    for simple in "id calls status stats mute unmute deafen undeafen devices".split(' ') {
        verb(&format!("telecon {simple}"));
    }
    let import = IdVerb::Import { file: "b".into(), passphrase_file: Some("p".into()) };
    assert_eq!(verb("telecon id import b --passphrase-file p"), Verb::Id { verb: Some(import) });
    assert_eq!(verb("telecon id"), Verb::Id { verb: None });
    for noun in [
        "id export b",
        "contacts list",
        "contacts remove bob",
        "config check",
        "config show",
        "config default",
        "record start",
        "record stop",
        "reject",
    ] {
        verb(&format!("telecon {noun}"));
    }
}

#[test]
fn a_directory_for_recordings_is_named_as_it_is_from_everywhere() {
    let Verb::Record { verb: RecordVerb::Start { directory: Some(AbsolutePath(path)) } } =
        verb("telecon record start meetings")
    else {
        panic!("a verb with a directory")
    };
    assert_eq!(path, std::env::current_dir().unwrap().join("meetings"));
}

#[test]
fn json_and_home_may_stand_before_and_after_every_verb() {
    for line in ["telecon --json --home /h contacts list", "telecon contacts list --json --home /h"] {
        let args = Args::try_parse_from(line.split(' ')).expect(line);
        assert!(args.json);
        assert_eq!(args.home, Some(PathBuf::from("/h")));
    }
}

#[test]
fn what_is_missing_or_unknown_is_refused() {
    for line in [
        "telecon",
        "telecon cal",
        "telecon call",
        "telecon contacts",
        "telecon watch --since x",
        "telecon id x",
        "telecon id export",
        "telecon id export f --passphrase p",
    ] {
        assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
    for line in ["telecon watch --since x", "telecon history --before 1.5"] {
        let said = Args::try_parse_from(line.split(' ')).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("write a whole number"), "{said}");
    }
}

#[test]
fn help_begins_with_examples_and_every_verbs_help_has_one() {
    let mut command = Args::command();
    command.build();
    assert!(command.render_help().to_string().starts_with("Examples:\n  telecon demo"));
    let mut verbs: Vec<clap::Command> = command.get_subcommands().cloned().collect();
    while let Some(mut verb) = verbs.pop() {
        if verb.get_name() == "help" {
            continue;
        }
        let help = verb.render_long_help().to_string();
        assert!(help.contains("\nExample: ") && help.contains("telecon "), "{help}");
        verbs.extend(verb.get_subcommands().cloned());
    }
}
