//! Who answers where: the ports of `probe serve`, and those that the probe itself opens.

/// Does what it is told: see [`crate::ask`].
pub const CONTROL: u16 = 7000;
/// Sends back what it gets.
pub const ECHO: u16 = 7001;
/// Closes a connection at once.
pub const CLOSES: u16 = 7002;
/// Sends [`BEFORE_RESET`] bytes; resets the connection after it has got one.
pub const RESETS: u16 = 7003;
/// Reads to the end, then answers how much it was, with [`LONG_ANSWER`] bytes behind it.
pub const ANSWERS_AT_THE_END: u16 = 7004;
/// Says that it will say no more, and then reads to the end; remembers what it read.
pub const ENDS_FIRST: u16 = 7005;
/// Greets before it is asked.
pub const GREETS: u16 = 7006;
/// Says whom it sees, and ends.
pub const WHO: u16 = 7007;
/// Source and sink of many bytes.
pub const BULK: u16 = 7008;
/// Reads until the connection is over, and remembers how it ended.
pub const REMEMBERS: u16 = 7009;
/// Opened only when told to.
pub const OPENS_LATER: u16 = 7010;
/// Nobody's.
pub const NOBODY: u16 = 7099;

/// UDP: sends back what it gets.
pub const UDP_ECHO: u16 = 7101;
/// UDP: sends three datagrams for one.
pub const UDP_THREE: u16 = 7102;
/// UDP: answers from another port.
pub const UDP_ELSEWHERE: u16 = 7103;
/// UDP: says whom it sees.
pub const UDP_WHO: u16 = 7104;

/// Bytes before a reset.
pub const BEFORE_RESET: usize = 1000;
/// Bytes of a long answer.
pub const LONG_ANSWER: usize = 1 << 20;
/// What [`GREETS`] says.
pub const GREETING: &str = "who is there?\n";

/// TCP ports of the probe that its pod and its Service declare; the first is one that only some may open.
pub const OWN_DECLARED: [u16; 2] = [80, 8080];
/// A UDP port of the probe that its pod and its Service declare.
pub const OWN_UDP_DECLARED: u16 = 5353;
/// TCP ports of the probe that nobody declares.
pub const OWN_UNDECLARED: [u16; 3] = [443, 9090, 40_123];
/// UDP ports of the probe that nobody declares.
pub const OWN_UDP_UNDECLARED: [u16; 3] = [123, 9091, 40_124];
