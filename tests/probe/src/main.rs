//! What a container sees of its world, as rows of a table.
//!
//! `probe rows TARGETS` prints one JSON object a line, `{"row": NAME, "says": TEXT}`. It is run as the container of a pod
//! and on a laptop by tpdocker, and the two are to say the same. What must differ between two pods of one workload (the
//! address, the name, the time) a row replaces by a placeholder itself, so that whoever compares compares texts.
//! `probe idle TARGETS` prints the one row that takes minutes, so that it can be had beside the others.
//!
//! `probe serve ADDRESS` is the other end: many small servers, each of which behaves in one way, and one that does what
//! it is told ("connect to me and tell what happened"). `probe wait` keeps a pod running and listens on nothing.

mod ask;
mod bulk;
mod context;
mod dns;
mod ports;
mod rows;
mod said;
mod serve;
mod targets;

use std::env;
use std::net::IpAddr;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["rows", targets] => of_targets(targets, rows::run),
        ["idle", targets] => of_targets(targets, rows::idle),
        ["serve", address] => address.parse::<IpAddr>().map_err(|error| error.to_string()).and_then(serve::run),
        ["wait"] => loop {
            std::thread::park();
        },
        _ => Err("usage: probe rows TARGETS | idle TARGETS | serve ADDRESS | wait".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn of_targets(targets: &str, carry_out: fn(&context::Context)) -> Result<(), String> {
    let targets = serde_json::from_str(targets).map_err(|error| format!("the targets: {error}"))?;
    carry_out(&context::Context::new(targets));
    Ok(())
}
