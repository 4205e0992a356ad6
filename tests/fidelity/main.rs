//! `make fidelity`: what a container sees on the laptop, beside what the pod sees.
//!
//! One probe is run twice, as a container of the workload's pod and with `tpdocker run` in its place. Both print rows;
//! the rows must be the same but for those that `declared.json` lists, each with what both say and why. Exits with 1 when a
//! row differs that is not declared, when a declared one does not differ (any more), and when a place does not carry out
//! all rows. Everything it needs in the cluster it makes in a namespace of its own, which is gone after it.

mod compare;
mod place;
mod process;
#[path = "../e2e/support.rs"]
#[allow(dead_code, reason = "shared with the end-to-end tests, which use all of it")]
mod support;

use std::fs;
use std::process::{Command, ExitCode};
use std::thread;

use serde_json::{Value, json};

use compare::{Compared, Declared, Report, Verdict, compare};
use place::{GLIBC_IMAGE, IMAGE, NAMESPACE, Place};
use support::{Tpdocker, kubectl_in, repo};

/// The rows that need glibc.
const SCRIPT: &str = include_str!("glibc.py");
/// What is let pass.
const DECLARED: &str = include_str!("declared.json");
/// Where the table is written to.
const RESULT: &str = "target/fidelity.json";
/// Width of a column of the printed table; the file and the list of differences have everything.
const COLUMN: usize = 46;

fn main() -> ExitCode {
    let declared: Vec<Declared> = serde_json::from_str(DECLARED).expect("the list of declared differences");
    place::images();
    let outcome = {
        let place = Place::make();
        let targets = Place::targets();
        // The connection that is idle for minutes is so in another pod, beside all the rest.
        thread::scope(|scope| {
            let idle = scope.spawn(|| idle_in_a_pod(&targets));
            let pod = in_the_pod(&place, &targets)?;
            let laptop = on_the_laptop(&place, &targets)?;
            let idle = idle.join().expect("the idle row is read")?;
            Ok::<_, String>((pod.into_iter().chain(idle).collect(), laptop))
        })
    };
    match outcome {
        Ok((pod, laptop)) => tell(&compare(&pod, &laptop, &declared)),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn exec(workload: &str, container: &str, command: &[&str]) -> Command {
    let mut kubectl = kubectl_in(NAMESPACE);
    kubectl.args(["exec", workload, "-c", container, "--"]).args(command);
    kubectl
}

fn idle_in_a_pod(targets: &Value) -> Result<Report, String> {
    let mut probe = exec("pod/db-0", "db", &["/probe", "idle", &targets.to_string()]);
    process::rows("in a pod, idle", &mut probe, || {})
}

fn in_the_pod(place: &Place, targets: &Value) -> Result<Report, String> {
    let mut targets = targets.clone();
    targets["idle_too"] = false.into();
    both(
        place,
        "in the pod",
        exec("deployment/subject", "subject", &["/probe", "rows", &targets.to_string()]),
        exec("deployment/glibc", "glibc", &["python3", "-c", SCRIPT, NAMESPACE, place::DATABASE]),
    )
}

fn on_the_laptop(place: &Place, targets: &Value) -> Result<Report, String> {
    // As it was when the pod was probed.
    place.change_live(0);
    let run = |swap: &str, rest: &[&str]| {
        let mut tpdocker = Tpdocker::command(&["run", "--swap", swap, "-n", NAMESPACE, "--rm"]);
        tpdocker.args(rest).env("XDG_RUNTIME_DIR", place.directory.path());
        tpdocker
    };
    let script = ["--entrypoint", "python3", GLIBC_IMAGE, "-c", SCRIPT, NAMESPACE, place::DATABASE];
    both(
        place,
        "on the laptop",
        run("subject", &["--pod-volume", "data=copy", IMAGE, "rows", &targets.to_string()]),
        run("deployment/glibc", &script),
    )
}

/// The probe and the script at once.
fn both(place: &Place, at: &str, mut probe: Command, mut script: Command) -> Result<Report, String> {
    let (probe, script) = thread::scope(|scope| {
        let probe = scope.spawn(move || process::rows(&format!("{at}, static"), &mut probe, || place.change_live(1)));
        let script = process::rows(&format!("{at}, glibc"), &mut script, || {});
        (probe.join().expect("the probe's rows are read"), script)
    });
    let (mut rows, more) = (probe?, script?);
    rows.extend(more);
    Ok(rows)
}

/// Prints the table and writes it; the outcome is that of the whole.
fn tell(rows: &[Compared]) -> ExitCode {
    let cut = |text: Option<&String>, width: usize| -> String {
        let text = text.map_or("(no such row)", String::as_str);
        if text.chars().count() <= width {
            text.to_owned()
        } else {
            text.chars().take(width - 1).chain(['…']).collect()
        }
    };
    println!("{:<COLUMN$}  {:<COLUMN$}  {:<COLUMN$}  same?", "row", "in the pod", "on the laptop");
    for each in rows {
        let row = cut(Some(&each.row), COLUMN);
        let (pod, laptop) = (cut(each.in_the_pod.as_ref(), COLUMN), cut(each.on_the_laptop.as_ref(), COLUMN));
        println!("{row:<COLUMN$}  {pod:<COLUMN$}  {laptop:<COLUMN$}  {}", each.verdict.word());
    }
    for each in rows.iter().filter(|each| each.verdict != Verdict::Same) {
        let say = |text: &Option<String>| text.clone().unwrap_or_else(|| "(no such row)".to_owned());
        println!("\n{}: {}", each.verdict.word(), each.row);
        if let Some(reason) = &each.reason {
            println!("  {reason}");
        }
        println!("  in the pod:    {}\n  on the laptop: {}", say(&each.in_the_pod), say(&each.on_the_laptop));
    }
    let same = rows.iter().filter(|each| each.verdict == Verdict::Same).count();
    let wrong = rows.iter().filter(|each| !each.verdict.is_fine()).count();
    let known = rows.len() - same - wrong;
    println!("\n{} rows: {same} the same, {known} different as declared, {wrong} wrong; see {RESULT}", rows.len());
    let text = json!({"rows": rows, "same": same, "declared": known, "wrong": wrong});
    fs::write(repo(RESULT), format!("{text:#}\n")).expect("the result is written");
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
