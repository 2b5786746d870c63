//! Errors and warnings, rendered with the source lines they point at.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{
    Annotation, AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str,
};

/// A byte range in the file.
pub(super) type Span = Range<usize>;

/// Maximum number of diagnostics rendered. The rest are only counted.
const MOST_DRAWN: usize = 50;
/// Maximum length of a rendered source line, in bytes. Longer lines (of a minified
/// or broken file) are only named by number.
const LONGEST_DRAWN_LINE: usize = 2000;

/// The file that a diagnostic points into.
#[derive(Debug)]
pub(super) struct Source {
    /// The name shown in diagnostics.
    pub(super) origin: String,
    /// The content.
    pub(super) text: String,
}

/// The severity of a diagnostic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file is invalid.
    Error,
    /// The file is valid, but probably not what was meant.
    Warning,
}

/// One error or warning, with its location and help.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    source: Arc<Source>,
    complaint: Complaint,
}

/// A diagnostic without its source file. Boxed, because many small functions
/// return it as their error.
#[derive(Debug, Clone)]
pub(super) struct Complaint(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    severity: Severity,
    message: String,
    span: Option<Span>,
    label: String,
    also: Vec<(Span, String)>,
    help: Vec<String>,
}

impl Complaint {
    /// Creates an error. `message` is one line, starting in lower case.
    pub(super) fn error(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, message.into())
    }

    /// Creates a warning.
    pub(super) fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, message.into())
    }

    fn new(severity: Severity, message: String) -> Self {
        let (span, label, also, help) = (None, String::new(), Vec::new(), Vec::new());
        Self(Box::new(Parts { severity, message, span, label, also, help }))
    }

    /// Sets the location and the label under it.
    pub(super) fn at(mut self, span: Span, label: impl Into<String>) -> Self {
        self.0.span = Some(span);
        self.0.label = label.into();
        self
    }

    /// Sets the location unless it has one.
    pub(super) fn or_at(self, span: Span) -> Self {
        if self.0.span.is_some() { self } else { self.at(span, "") }
    }

    /// Adds a related location.
    pub(super) fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.0.also.push((span, label.into()));
        self
    }

    /// Adds a `help:` line.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help.push(help.into());
        self
    }

    /// Adds a `help:` line if there is one.
    pub(super) fn maybe_help(self, help: Option<impl Into<String>>) -> Self {
        match help {
            Some(help) => self.help(help),
            None => self,
        }
    }
}

impl Diagnostic {
    /// Returns the severity.
    pub fn severity(&self) -> Severity {
        self.complaint.0.severity
    }

    /// Returns the message, without its location.
    pub fn message(&self) -> &str {
        &self.complaint.0.message
    }

    /// Returns the `help:` lines.
    pub fn help(&self) -> impl Iterator<Item = &str> {
        self.complaint.0.help.iter().map(String::as_str)
    }

    /// Returns the line number, counted from 1, if the diagnostic has a location.
    pub fn line(&self) -> Option<usize> {
        let span = self.complaint.0.span.as_ref()?;
        let before = self.source.text.as_bytes().get(..span.start)?;
        Some(1 + memchr::memchr_iter(b'\n', before).count())
    }

    /// Renders the diagnostic for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let complaint = &*self.complaint.0;
        let level = match complaint.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut primary = Group::with_title(level.primary_title(complaint.message.as_str()));
        if let Some(excerpt) = Excerpt::of(&self.source.text, complaint) {
            primary = primary.element(excerpt.snippet(&self.source.origin));
        } else {
            let line = self.line().map(|line| format!(", line {line}")).unwrap_or_default();
            let place = format!("in {}{line}", self.source.origin);
            primary = primary.element(Level::NOTE.message(normalize_untrusted_str(&place)));
        }
        let mut groups = vec![primary];
        for help in &complaint.help {
            groups.push(Group::with_title(Level::HELP.secondary_title(normalize_untrusted_str(help))));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut drawn = renderer.decor_style(DecorStyle::Ascii).render(&groups);
        drawn.push('\n');
        drawn
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

/// The source lines of a diagnostic. The renderer gets only these, so that the
/// cost of rendering does not grow with the file.
struct Excerpt<'a> {
    text: &'a str,
    first_line: usize,
    marks: Vec<(AnnotationKind, Span, &'a str)>,
}

impl<'a> Excerpt<'a> {
    fn of(text: &'a str, complaint: &'a Parts) -> Option<Self> {
        let primary = clamp(text, complaint.span.as_ref()?);
        let also: Vec<_> = complaint.also.iter().map(|(span, label)| (clamp(text, span), label)).collect();
        let spans = || std::iter::once(&primary).chain(also.iter().map(|(span, _)| span));
        let first = spans().map(|span| span.start).min()?;
        let last = spans().map(|span| span.end).max()?;
        let start = text[..first].rfind('\n').map_or(0, |at| at + 1);
        let end = text[last..].find('\n').map_or(text.len(), |at| last + at);
        let lines = &text[start..end];
        if lines.lines().any(|line| line.len() > LONGEST_DRAWN_LINE) {
            return None;
        }
        let shift = |span: Span| span.start - start..span.end - start;
        let mut marks = vec![(AnnotationKind::Primary, shift(primary.clone()), complaint.label.as_str())];
        marks.extend(
            also.into_iter().map(|(span, label)| (AnnotationKind::Context, shift(span), label.as_str())),
        );
        let first_line = 1 + memchr::memchr_iter(b'\n', &text.as_bytes()[..start]).count();
        Some(Self { text: lines, first_line, marks })
    }

    fn snippet(self, origin: &'a str) -> Snippet<'a, Annotation<'a>> {
        let snippet = Snippet::source(self.text).line_start(self.first_line).path(origin);
        self.marks.into_iter().fold(snippet, |snippet, (kind, span, label)| {
            let label = (!label.is_empty()).then(|| normalize_untrusted_str(label));
            snippet.annotation(kind.span(span).label(label))
        })
    }
}

/// Clamps a span to the text, to character boundaries and to its first line.
/// More lines would only obscure the location.
fn clamp(text: &str, span: &Span) -> Span {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    let end = floor(span.end).max(start);
    let line_end = text[start..end].find(['\n', '\r']).map_or(end, |at| start + at);
    start..line_end
}

/// All errors and warnings of an invalid file, in line order. Holds at least one
/// error.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Iterates over all diagnostics, including warnings.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// Counts the errors.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|d| d.severity() == Severity::Error).count()
    }

    /// Renders all diagnostics for a terminal.
    pub fn render(&self, colour: bool) -> String {
        render_all(&self.list, colour)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Renders diagnostics, separated by blank lines.
pub fn render_all(list: &[Diagnostic], colour: bool) -> String {
    let drawn: Vec<String> = list.iter().take(MOST_DRAWN).map(|d| d.render(colour)).collect();
    let mut text = drawn.join("\n");
    if let Some(more) = list.len().checked_sub(MOST_DRAWN).filter(|&more| more > 0) {
        text.push_str("\n... and ");
        text.push_str(&more.to_string());
        text.push_str(" more\n");
    }
    text
}

/// Collects diagnostics while a file is lowered.
#[derive(Debug, Default)]
pub(super) struct Sink {
    list: Vec<Complaint>,
}

impl Sink {
    /// Adds a diagnostic.
    pub(super) fn push(&mut self, complaint: Complaint) {
        self.list.push(complaint);
    }

    /// Adds a diagnostic instead of those at this location, which follow from it.
    pub(super) fn replace_at(&mut self, span: Span, complaint: Complaint) {
        self.list.retain(|other| other.0.span.as_ref() != Some(&span));
        self.push(complaint);
    }

    /// Returns true if there is an error.
    pub(super) fn failed(&self) -> bool {
        self.list.iter().any(|c| c.0.severity == Severity::Error)
    }

    /// Returns all diagnostics in line order. Those without a location come last.
    pub(super) fn into_diagnostics(self, source: &Arc<Source>) -> Vec<Diagnostic> {
        let mut list = self.list;
        list.sort_by_key(|c| c.0.span.as_ref().map_or(usize::MAX, |span| span.start));
        list.into_iter().map(|complaint| Diagnostic { source: Arc::clone(source), complaint }).collect()
    }
}

impl From<Vec<Diagnostic>> for Diagnostics {
    fn from(list: Vec<Diagnostic>) -> Self {
        Self { list }
    }
}
