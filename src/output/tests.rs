//! What is written, to the byte.

use std::io;
use std::time::Duration;

use super::*;
use crate::error::{Bug, Code, Explain};

/// Everything written so far.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("not poisoned").clone()).expect("UTF-8")
    }
}

fn console(audience: Audience) -> (Console, Paper) {
    let paper = Paper::default();
    (Console::new(Box::new(paper.clone()), audience), paper)
}

const TOOK: Duration = Duration::from_millis(1234);

fn session(console: &Console) {
    console.event(&Event::StepStarted { step: "proxy pod" });
    console.event(&Event::StepProgress { step: "proxy pod", detail: "pulling".into() });
    console.event(&Event::StepDone { step: "proxy pod", facts: "servicename-x".into(), took: TOOK });
    console.event(&Event::Warning("an autoscaler is near".into()));
    console.event(&Event::StepStarted { step: "tunnel" });
    console.event(&Event::StepFailed { step: "tunnel", took: TOOK });
}

#[test]
fn a_step_that_was_not_needed_is_neither_done_nor_failed() {
    let (console, paper) = console(Audience::Pipe);
    console.event(&Event::StepSkipped { step: "swap", why: "the app has ended", took: TOOK });
    assert_eq!(paper.text(), "- swap          the app has ended  (1.2s)\n");
}

#[derive(Debug, thiserror::Error)]
#[error("outer")]
struct Outer(#[source] Inner);

#[derive(Debug, thiserror::Error)]
#[error("inner, where the cause is")]
struct Inner;

impl Explain for Outer {
    fn code(&self) -> Code {
        Code::Proxy
    }

    fn hint(&self) -> Option<String> {
        Some("kubectl get pods".into())
    }
}

#[test]
fn a_pipe_gets_one_line_per_fact_and_no_escape() {
    let (console, paper) = console(Audience::Pipe);
    session(&console);
    insta::assert_snapshot!(paper.text(), @r"
    ✔ proxy pod     servicename-x  (1.2s)
    warning: an autoscaler is near
    ✘ tunnel        (1.2s)
    ");
}

#[test]
fn a_script_gets_one_object_a_line() {
    let (console, paper) = console(Audience::Script);
    session(&console);
    console.event(&Event::Notice("two\nlines".into()));
    console.error(&Outer(Inner).into());
    for line in paper.text().lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    }
    insta::assert_snapshot!(paper.text(), @r#"
    {"event":"step-started","step":"proxy pod"}
    {"event":"step-progress","step":"proxy pod","detail":"pulling"}
    {"event":"step-done","step":"proxy pod","facts":"servicename-x","millis":1234}
    {"event":"warning","text":"an autoscaler is near"}
    {"event":"step-started","step":"tunnel"}
    {"event":"step-failed","step":"tunnel","millis":1234}
    {"event":"notice","text":"two\nlines"}
    {"event":"error","code":84,"name":"proxy","message":"outer","causes":["inner, where the cause is"],"hint":"kubectl get pods"}
    "#);
}

#[test]
fn an_error_tells_each_cause_once_and_the_cure() {
    let (console, paper) = console(Audience::Pipe);
    console.error(&Outer(Inner).into());
    console.error(&Bug::caused_by("it broke: inner, where the cause is", Inner).into());
    let text = paper.text();
    assert!(text.starts_with("error: outer\ncaused by: inner, where the cause is\nhint: kubectl get pods\n"), "{text}");
    assert!(text.contains("error: it broke: inner, where the cause is\nhint: this is a bug"), "{text}");
}

#[test]
fn a_step_that_takes_long_is_heard_of_in_a_pipe() {
    let mut plain = Plain::default();
    let began = Instant::now();
    let progress = Event::StepProgress { step: "proxy pod", detail: "pulling".into() };
    plain.event(&Event::StepStarted { step: "proxy pod" }, began);
    assert_eq!(plain.event(&progress, began + Duration::from_secs(1)), None);
    let told = plain.event(&progress, began + Duration::from_secs(4));
    assert_eq!(told.as_deref(), Some("· proxy pod: pulling"));
    assert_eq!(plain.event(&progress, began + Duration::from_secs(5)), None);
}

#[test]
fn the_live_line_shows_every_running_step_with_its_detail_and_age() {
    let mut live = Live::new(Palette::NONE);
    let began = Instant::now();
    live.event(&Event::StepStarted { step: "proxy pod" }, began);
    live.event(&Event::StepStarted { step: "image" }, began + Duration::from_secs(4));
    live.event(&Event::StepProgress { step: "proxy pod", detail: "Pending\nhere".into() }, began);
    let bar = live.bar(began + Duration::from_secs(5));
    assert!(bar.contains("proxy pod: Pending here (5.0s) · image\x1b"), "{bar:?}");
    live.event(&Event::StepDone { step: "proxy pod", facts: String::new(), took: TOOK }, began);
    live.event(&Event::StepFailed { step: "image", took: TOOK }, began);
    assert!(live.is_idle());
    assert_eq!(live.bar(began), "");
}

#[test]
fn a_terminal_erases_the_live_line_before_each_line() {
    let (console, paper) = console(Audience::Terminal { colour: false });
    session(&console);
    let text = paper.text();
    assert!(text.contains("\r\x1b[2K✔ proxy pod     servicename-x  (1.2s)\n"), "{text:?}");
    assert!(text.ends_with("\r\x1b[2K✘ tunnel        (1.2s)\n"), "{text:?}");
}

#[test]
fn colours_are_used_when_asked_for_alone() {
    let done = Event::StepDone { step: "x", facts: String::new(), took: TOOK };
    let painted = lines::event(&done, Palette { colour: true }).expect("a line");
    assert!(painted.contains("\x1b[32m✔\x1b[0m"), "{painted:?}");
    assert!(!lines::event(&done, Palette::NONE).expect("a line").contains('\x1b'));
}

#[test]
fn a_quiet_console_draws_nothing_and_ends_lines_for_a_raw_terminal() {
    let (console, paper) = console(Audience::Terminal { colour: false });
    console.event(&Event::StepStarted { step: "app" });
    console.quiet_live(TerminalMode::Raw);
    let before = paper.text().len();
    console.event(&Event::StepProgress { step: "app", detail: "runs".into() });
    console.event(&Event::Warning("the tunnel is\nbeing rebuilt".into()));
    assert_eq!(&paper.text()[before..], "warning: the tunnel is\r\nbeing rebuilt\r\n");
    console.resume();
    assert!(paper.text()[before..].contains("app: runs"));
}

#[test]
fn a_file_keeps_its_line_ends_while_the_terminal_is_raw() {
    let (console, paper) = console(Audience::Pipe);
    console.quiet_live(TerminalMode::Raw);
    console.event(&Event::Warning("x".into()));
    assert_eq!(paper.text(), "warning: x\n");
}

#[test]
fn a_log_record_is_written_whole_above_the_live_line() {
    use tracing_subscriber::fmt::MakeWriter as _;
    let (console, paper) = console(Audience::Pipe);
    let mut record = console.make_writer();
    record.write_all(b"first half, ").and_then(|()| record.write_all(b"second half\n")).expect("in memory");
    console.event(&Event::Notice("between".into()));
    drop(record);
    assert_eq!(paper.text(), "· between\nfirst half, second half\n");
}

#[test]
fn the_live_line_moves_by_itself_and_its_thread_ends_with_the_last_step() {
    let (console, paper) = console(Audience::Terminal { colour: false });
    console.event(&Event::StepStarted { step: "app" });
    let drawn = paper.text().len();
    let deadline = Instant::now() + Duration::from_secs(10);
    while paper.text().len() == drawn {
        assert!(Instant::now() < deadline, "the live line stands still");
        thread::yield_now();
    }
    console.event(&Event::StepDone { step: "app", facts: String::new(), took: TOOK });
    while console.lock().drawing {
        assert!(Instant::now() < deadline, "the thread goes on");
        thread::yield_now();
    }
}

#[test]
fn names_from_elsewhere_do_not_steer_the_terminal() {
    let (console, paper) = console(Audience::Pipe);
    console.event(&Event::Notice("\x1b]0;title\x07 \u{9b}2J".into()));
    assert!(!paper.text().contains(['\x1b', '\x07', '\u{9b}']), "{:?}", paper.text());
}

#[test]
fn a_step_that_is_dropped_has_failed() {
    let (console, paper) = console(Audience::Script);
    drop(console.reporter().step("image"));
    assert!(paper.text().contains(r#""event":"step-failed","step":"image""#), "{}", paper.text());
}

#[test]
fn durations_are_short() {
    for (millis, text) in [(7, "7ms"), (100, "0.1s"), (1234, "1.2s"), (59_000, "59.0s"), (125_000, "2m05s")] {
        assert_eq!(lines::duration(Duration::from_millis(millis)), text);
    }
}
