//! Colours, or none.

/// Whether colours are used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Palette {
    pub(super) colour: bool,
}

/// What a piece of text is; each has an SGR code of ECMA-48 (8.3.117).
#[derive(Debug, Clone, Copy)]
pub(super) enum Ink {
    Good,
    Bad,
    Caution,
    Faint,
}

impl Palette {
    pub(super) const NONE: Self = Self { colour: false };

    pub(super) fn paint(self, ink: Ink, text: &str) -> String {
        let code = match ink {
            Ink::Good => 32,
            Ink::Bad => 31,
            Ink::Caution => 33,
            Ink::Faint => 2,
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
