//! What can be typed. Each verb's help ends with an example; the program's help begins with some.

use std::{path::PathBuf, str::FromStr};

use clap::{Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "Examples:
  telecon demo                              hear a group call of three daemons on this machine
  telecon daemon                            run the daemon (or: systemctl --user start telecon)
  telecon id                                what to give to friends
  telecon contacts add did:key:z6Mk… bob --address /ip4/192.0.2.7/udp/4001/quic-v1
                                            remember a friend, and where to find him
  telecon call bob carol --wait             call them, and wait until somebody is there
  telecon accept                            take the call that rings; an active one is put on hold
  telecon join                              go back to a call that was left or missed
  telecon history                           which calls there were
";

/// Peer-to-peer voice calls
#[derive(Debug, Parser)]
#[command(name = "telecon", version, before_help = EXAMPLES, max_term_width = 100)]
pub struct Args {
    /// Keep all files below DIR: another identity, or a test
    #[arg(long, global = true, value_name = "DIR", env = "TELECON_HOME", hide_env_values = true)]
    pub home: Option<PathBuf>,
    /// Print JSON, for scripts
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Verb {
    /// Run the daemon in the foreground
    #[command(after_help = "Example: telecon daemon --config ~/quiet.toml\n\n\
        It keeps its terminal until Ctrl-C and logs to stderr. TELECON_LOG=telecon=debug makes it say more.")]
    Daemon {
        /// Read this file instead of the usual one
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Hold a real group call of several daemons on this machine
    #[command(after_help = "Example: telecon demo --participants 3 --seconds 10")]
    Demo {
        /// How many daemons take part
        #[arg(long, value_name = "N", default_value_t = 3)]
        participants: usize,
        /// How long they talk
        #[arg(long, value_name = "S", default_value_t = 10)]
        seconds: u64,
    },
    /// Show the own DID, peer id and addresses, to give to others; or bring the own key to another device
    #[command(after_help = "Example: telecon id --json")]
    Id {
        #[command(subcommand)]
        verb: Option<IdVerb>,
    },
    /// Dial a peer now
    #[command(after_help = "Example: telecon connect /ip4/192.0.2.7/udp/4001/quic-v1")]
    Connect {
        /// Where it listens
        #[arg(value_name = "MULTIADDR")]
        address: String,
    },
    /// Offer a call and print its id
    #[command(after_help = "Example: telecon call bob did:key:z6Mk… --wait\n\n\
        A call that is active is put on hold. With --wait the exit code tells how it went: 0 somebody is\n\
        there, 10 declined, 11 no answer, 12 busy, 13 unreachable, 14 accepted but without sound.\n\
        Ctrl-C ends the waiting, not the call.")]
    Call {
        /// DIDs or names of contacts
        #[arg(required = true, value_name = "WHO")]
        who: Vec<String>,
        /// Let nobody else invite more people
        #[arg(long)]
        closed: bool,
        /// Follow the call until it is joined or over
        #[arg(long)]
        wait: bool,
    },
    /// Take a ringing call
    #[command(
        after_help = "Example: telecon accept 0b1e\n\nA call that is active is put on hold, or left with --leave."
    )]
    Accept {
        /// Id or its beginning; may be left out when only one call rings
        call: Option<String>,
        /// Leave the active call instead of putting it on hold
        #[arg(long)]
        leave: bool,
    },
    /// Refuse a ringing call
    #[command(
        visible_alias = "decline",
        after_help = "Example: telecon reject --reason not_now --text \"in an hour?\"\n\n\
            The caller is told the reason and the text, which has 160 bytes at most."
    )]
    Reject {
        /// Id or its beginning; may be left out when only one call rings
        call: Option<String>,
        /// Why
        #[arg(long, value_name = "WORD", value_parser = ["declined", "busy", "do_not_disturb", "not_now"])]
        reason: Option<String>,
        /// A few words for the caller
        #[arg(long)]
        text: Option<String>,
    },
    /// Leave a call, take an offer back, or refuse a call that rings
    #[command(after_help = "Example: telecon hangup")]
    Hangup {
        /// Id or its beginning; may be left out when only one call can be meant
        call: Option<String>,
    },
    /// Go back to a call that was left, or to one that was missed less than an hour ago
    #[command(after_help = "Example: telecon join 0b1e\n\n\
        `telecon calls` lists what can be joined. A call that is active is put on hold, or left with --leave.")]
    Join {
        /// Id or its beginning; may be left out when only one call can be meant
        call: Option<String>,
        /// Leave the active call instead of putting it on hold
        #[arg(long)]
        leave: bool,
    },
    /// Ask more people into a call
    #[command(after_help = "Example: telecon invite 0b1e carol\n\n`telecon calls` lists the ids.")]
    Invite {
        /// Id or its beginning; always needed, since people stand behind it
        call: String,
        /// DIDs or names of contacts
        #[arg(required = true, value_name = "WHO")]
        who: Vec<String>,
    },
    /// Put a call on hold: neither speak nor hear, and come back later
    #[command(after_help = "Example: telecon hold")]
    Hold {
        /// Id or its beginning; left out: the active call
        call: Option<String>,
    },
    /// Take a call from hold
    #[command(after_help = "Example: telecon resume\n\nA call that is active is put on hold.")]
    Resume {
        /// Id or its beginning; may be left out when only one call is on hold
        call: Option<String>,
    },
    /// Do not disturb: let no call ring, or let calls ring again
    #[command(after_help = "Example: telecon dnd on\n\n\
        Contacts who call are told so. Calls that did not ring are in `telecon history`.")]
    Dnd {
        /// Whether calls are kept silent
        switch: Switch,
    },
    /// List all calls, and those that can be joined again
    #[command(after_help = "Example: telecon calls")]
    Calls,
    /// Show which calls there were, the latest first
    #[command(after_help = "Example: telecon history --seen")]
    History {
        /// Show at most so many
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
        /// Only calls that began before this unix time in ms, as `started_ms` in --json: to read on
        #[arg(long, value_name = "MS", value_parser = whole_number)]
        before: Option<u64>,
        /// Mark everything so far as seen: `telecon status` counts missed calls from there
        #[arg(long)]
        seen: bool,
    },
    /// Show the daemon's state
    #[command(after_help = "Example: telecon status --json")]
    Status,
    /// Show how well each participant is heard
    #[command(after_help = "Example: telecon stats\n\n\
        network    the way of packets there and back, how unevenly they come, and how many never came\n\
        heard      from a packet's arrival to the ear; how loud; how much was lost and made up\n\
        delay in   where others' voices wait: for late packets, decoded, mixed, in the device\n\
        delay out  where the own voice waits: in the device, in the filters, for its frame to be complete\n\
        repaired   lost sound that came another way; too late; how often the delay was changed unheard\n\
        sent       the own voice: its quality, its cost, and what the other side says of its way\n\n\
        Loss and what was made up are of about the last ten seconds, the level of the last one.")]
    Stats,
    /// Switch the microphone off
    #[command(after_help = "Example: telecon mute")]
    Mute,
    /// Switch the microphone on
    #[command(after_help = "Example: telecon unmute")]
    Unmute,
    /// Speak, with push-to-talk
    #[command(after_help = "Example: telecon talk on\n\n\
        For a key of the keyboard: talk on when it goes down, talk off when it comes up. The microphone\n\
        closes by itself after a minute, unless talk on is said again. For [audio] push_to_talk = true.")]
    Talk {
        /// on or off
        switch: Switch,
    },
    /// Switch the speaker off
    #[command(after_help = "Example: telecon deafen")]
    Deafen,
    /// Switch the speaker on
    #[command(after_help = "Example: telecon undeafen")]
    Undeafen,
    /// Make one person louder, softer or silent for yourself
    #[command(after_help = "Example: telecon volume bob 150\n\n\
        off does not play the person at all and on does again, as loud as before; the person is not\n\
        told. For contacts it is kept for good, for others until the daemon ends.\n\
        To refuse somebody's calls: telecon contacts block.")]
    Volume {
        /// DID or name of a contact
        who: String,
        /// 0 to 200 percent, off or on
        #[arg(value_name = "PERCENT|off|on")]
        level: Level,
    },
    /// Record the active call: one file for each who is connected, and one of all together; the others are told
    #[command(after_help = "Example: telecon record start\n\n\
        The files are Opus in Ogg, with the same time line. On hold nothing is recorded.")]
    Record {
        #[command(subcommand)]
        verb: RecordVerb,
    },
    /// List microphones and speakers
    #[command(after_help = "Example: telecon devices")]
    Devices,
    /// Choose a microphone, a speaker, or where calls ring; also in the middle of a call
    #[command(after_help = "Example: telecon device output alsa_output.usb-headset\n\n\
        It is kept over restarts. While the device is not there, the system's default stands in for it.\n\
        default goes back to what the configuration says.")]
    Device {
        /// What for
        #[arg(value_name = "input|output|ring")]
        direction: Direction,
        /// A name or a description from `telecon devices`, or default
        name: String,
    },
    /// Test the microphone or the speaker, while no call goes on
    #[command(after_help = "Example: telecon test mic\n\n\
        mic shows how loud you are, then plays what you said. speaker plays a few tones. Nothing leaves\n\
        this machine.")]
    Test {
        /// What to test
        #[arg(value_name = "mic|speaker")]
        what: Tested,
        /// How long the microphone listens
        #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=30))]
        seconds: u32,
    },
    /// List and change contacts, and decide how their calls are taken
    #[command(after_help = "Example: telecon contacts list")]
    Contacts {
        #[command(subcommand)]
        verb: ContactVerb,
    },
    /// Print events as they happen
    #[command(after_help = "Example: telecon watch --since 120 --json")]
    Watch {
        /// Begin with the kept events after this one
        #[arg(long, value_name = "SEQ", value_parser = whole_number)]
        since: Option<u64>,
    },
    /// Check or print the configuration
    #[command(after_help = "Example: telecon config check")]
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
}

#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum ContactVerb {
    /// List all contacts
    #[command(after_help = "Example: telecon contacts list")]
    List,
    /// Add a contact, or change it
    #[command(
        after_help = "Example: telecon contacts add did:key:z6Mk… bob --address /dns4/bob.example/udp/4001/quic-v1"
    )]
    Add {
        /// Its DID
        did: String,
        /// What to call it here
        name: String,
        /// Where it can be dialled
        #[arg(long, value_name = "MULTIADDR")]
        address: Option<String>,
    },
    /// Remove a contact
    #[command(after_help = "Example: telecon contacts remove bob")]
    Remove {
        /// Name or DID
        who: String,
    },
    /// Take a contact's calls without asking, as an intercom does
    #[command(after_help = "Example: telecon contacts allow door")]
    Allow {
        /// Name or DID
        who: String,
    },
    /// Let a contact's calls ring, as they do at first
    #[command(after_help = "Example: telecon contacts ask bob")]
    Ask {
        /// Name or DID
        who: String,
    },
    /// Take no calls of a contact; it is not told, and sees a call that nobody answers
    #[command(after_help = "Example: telecon contacts block mallory")]
    Block {
        /// Name or DID
        who: String,
    },
    /// Add the contacts of a file, all or none
    #[command(after_help = "Example: telecon contacts import contacts.jsonl\n\n\
        The file has one JSON object a line, as `telecon contacts export` writes it, with did and name\n\
        at least:\n\
        {\"did\":\"did:key:z6Mk…\",\"name\":\"bob\",\"address\":\"/ip4/192.0.2.7/udp/4001/quic-v1\",\"policy\":\"ask\"}\n\n\
        What was decided about contacts that are there already stays as it is.")]
    Import {
        /// The file, or - for the standard input
        file: PathBuf,
        /// Give contacts that are there under another name the name in the file
        #[arg(long)]
        rename: bool,
    },
    /// Print all contacts, one JSON object a line
    #[command(after_help = "Example: telecon contacts export > contacts.jsonl")]
    Export,
}

#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum RecordVerb {
    /// Begin, and print the directory of the recording
    #[command(after_help = "Example: telecon record start ~/meetings\n\n\
        Without DIR it is ~/.local/share/telecon/recordings. Everybody in the call, and who comes later, is\n\
        shown that it is recorded. It ends with the call, and with the daemon.")]
    Start {
        /// Where the recording gets a directory of its own
        #[arg(value_name = "DIR")]
        directory: Option<AbsolutePath>,
    },
    /// End the recording
    #[command(after_help = "Example: telecon record stop\n\n\
        When it returns the files are complete.")]
    Stop,
}

/// A path as it is from everywhere: the daemon was started somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbsolutePath(pub PathBuf);

impl FromStr for AbsolutePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        std::path::absolute(text).map(Self).map_err(|error| format!("write the whole path: {error}"))
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// What a sound device is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    Input,
    Output,
    Ring,
}

/// What is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Tested {
    Mic,
    Speaker,
}

/// How loud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Percent(u16),
    Off,
    On,
}

fn whole_number(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "write a whole number")
}

impl FromStr for Level {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_suffix('%').unwrap_or(text) {
            "off" => Ok(Self::Off),
            "on" => Ok(Self::On),
            number => match number.parse() {
                Ok(percent @ 0..=200) => Ok(Self::Percent(percent)),
                Ok(_) | Err(_) => Err("write 0 to 200, off or on"),
            },
        }
    }
}

#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum IdVerb {
    /// Write the own key into a new file, sealed with a passphrase
    #[command(after_help = "Example: telecon id export ~/telecon-backup\n\n\
        The passphrase is asked for; where stdin is no terminal, it is the first line of that.\n\
        The file holds the key and nothing else: no contacts, no history. Works without a daemon.")]
    Export {
        /// The new file; an existing one is never overwritten
        file: PathBuf,
        /// Read the passphrase from the first line of FILE
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Make this installation a new device of the person whose key such a file holds
    #[command(after_help = "Example: telecon id import ~/telecon-backup\n\n\
        The passphrase is asked for; where stdin is no terminal, it is the first line of that.\n\
        Stop the daemon first. An identity that is here already is never replaced, and contacts\n\
        stay as they are. Both devices ring; a call is taken on one of them.")]
    Import {
        /// What `telecon id export` wrote
        file: PathBuf,
        /// Read the passphrase from the first line of FILE
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
}

#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum ConfigVerb {
    /// Say what is wrong in the configuration file, and which keys have no effect yet
    #[command(after_help = "Example: telecon config check")]
    Check,
    /// Print what a daemon that starts now would use
    #[command(after_help = "Example: telecon config show --json")]
    Show,
    /// Print the commented defaults
    #[command(
        after_help = "Example: mkdir -p ~/.config/telecon && telecon config default > ~/.config/telecon/telecon.toml"
    )]
    Default,
}

#[cfg(test)]
mod tests;
