//! `tpdocker run`, from its arguments to its settings.

use super::clap_args::Globals;
use super::draft::Draft;
use super::error::UsageError;
use super::flags::{Arity, Origin, Rows};
use super::grammar::{self, Given, Split};
use super::{Failure, Request, Surroundings, help};
use crate::settings::{Command, Settings};

/// Reads what follows the word `run`; `globals` stood in front of it.
pub(super) fn parse(globals: &Globals, args: &[String], around: &Surroundings) -> Result<Request, Failure> {
    let mut draft = Draft {
        verbosity: globals.verbose,
        output: globals.output.map(Into::into),
        proxy_image: around.proxy_image(),
        ..Draft::default()
    };
    let mut split = Split::default();
    let grammar = grammar::split(args, &Rows, &mut split);
    // The help is given even where another flag is wrong: it is what helps then.
    if split.given.iter().any(|given| given.flag.long == "help" && grammar::boolean(&given.value) == Some(true)) {
        return Ok(Request::Print(help::run()));
    }
    let applied = apply(&mut draft, &split.given, around);
    let output = draft.output.unwrap_or_default();
    let verbosity = draft.verbosity;
    grammar
        .and(applied)
        .and_then(|()| draft.finish(split.rest))
        .map(|run| Request::Act(Box::new(Settings { verbosity, output, command: Command::Run(Box::new(run)) })))
        .map_err(|error| Failure { output, error })
}

fn apply(draft: &mut Draft, given: &[Given], around: &Surroundings) -> Result<(), UsageError> {
    for (index, Given { flag, value }) in given.iter().enumerate() {
        let ours_again = flag.origin == Origin::Tpdocker
            && !flag.repeatable
            && flag.arity != Arity::Switch
            && given[..index].iter().any(|earlier| earlier.flag.long == flag.long);
        if ours_again {
            return Err(UsageError::Repeated { flag: flag.long });
        }
        (flag.apply)(draft, value, around).map_err(|source| UsageError::BadValue {
            flag: flag.long,
            value: value.clone(),
            source,
        })?;
    }
    Ok(())
}
