//! Writes the seeds of a target into a directory, as files for libFuzzer: `seeds TARGET DIRECTORY`.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [name, directory] = &arguments[..] else { return Err("usage: seeds TARGET DIRECTORY".into()) };
    let target = tpdocker_fuzz::TARGETS.iter().find(|target| target.name == name).ok_or("no such target")?;
    for (number, seed) in (target.seeds)().iter().enumerate() {
        fs::write(Path::new(directory).join(format!("seed-{number}")), seed)?;
    }
    Ok(())
}
