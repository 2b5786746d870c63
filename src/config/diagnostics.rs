//! What is wrong with a file, drawn under its lines.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{
    Annotation, AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str,
};

/// A place in the file, in bytes.
pub(super) type Span = Range<usize>;

/// More problems than this are counted, not drawn.
const MOST_DRAWN: usize = 50;
/// A line longer than this (a minified or broken file) is named, not drawn.
const LONGEST_DRAWN_LINE: usize = 2000;

/// The file that a diagnostic points into.
#[derive(Debug)]
pub(super) struct Source {
    /// Its name, for messages.
    pub(super) origin: String,
    /// Its text.
    pub(super) text: String,
}

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// It can, but hardly as it was meant.
    Warning,
}

/// One problem: what is wrong, where, and how to mend it.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    source: Arc<Source>,
    complaint: Complaint,
}

/// A problem, before it is known which file it is in. Boxed, because it is
/// the error of many small functions.
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
    /// An error: `message` says what is wrong, in one line, in lower case.
    pub(super) fn error(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, message.into())
    }

    /// A warning.
    pub(super) fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, message.into())
    }

    fn new(severity: Severity, message: String) -> Self {
        let (span, label, also, help) = (None, String::new(), Vec::new(), Vec::new());
        Self(Box::new(Parts { severity, message, span, label, also, help }))
    }

    /// Points at the place, with a word to write under it.
    pub(super) fn at(mut self, span: Span, label: impl Into<String>) -> Self {
        self.0.span = Some(span);
        self.0.label = label.into();
        self
    }

    /// Points at the place unless that is known already.
    pub(super) fn or_at(self, span: Span) -> Self {
        if self.0.span.is_some() { self } else { self.at(span, "") }
    }

    /// Points at a second place that has to do with it.
    pub(super) fn also(mut self, span: Span, label: impl Into<String>) -> Self {
        self.0.also.push((span, label.into()));
        self
    }

    /// Says how to mend it.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help.push(help.into());
        self
    }

    /// Says how to mend it, where that is known.
    pub(super) fn maybe_help(self, help: Option<impl Into<String>>) -> Self {
        match help {
            Some(help) => self.help(help),
            None => self,
        }
    }
}

impl Diagnostic {
    /// Error or warning.
    pub fn severity(&self) -> Severity {
        self.complaint.0.severity
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.complaint.0.message
    }

    /// How to mend it, where that is known.
    pub fn help(&self) -> impl Iterator<Item = &str> {
        self.complaint.0.help.iter().map(String::as_str)
    }

    /// The line it is on, from 1, where it is on one.
    pub fn line(&self) -> Option<usize> {
        let span = self.complaint.0.span.as_ref()?;
        let before = self.source.text.as_bytes().get(..span.start)?;
        Some(1 + memchr::memchr_iter(b'\n', before).count())
    }

    /// As drawn for a terminal.
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

/// The lines that a diagnostic is drawn under. Only they are given to the
/// renderer, so that the cost of drawing does not grow with the file.
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

/// The part of the span that lies in the text, on character boundaries and on
/// one line: what follows the first line would only push the point of it away.
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

/// All that is wrong with a file, in the order of its lines; at least one
/// error.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// The problems, warnings included.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|d| d.severity() == Severity::Error).count()
    }

    /// All of them, as drawn for a terminal.
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

/// Draws these, an empty line between two.
pub fn render_all(list: &[Diagnostic], colour: bool) -> String {
    let drawn: Vec<String> = list.iter().take(MOST_DRAWN).map(|d| d.render(colour)).collect();
    let mut text = drawn.join("\n");
    if let Some(more) = list.len().checked_sub(MOST_DRAWN).filter(|&more| more > 0) {
        text.push_str("\nand ");
        text.push_str(&more.to_string());
        text.push_str(" more\n");
    }
    text
}

/// Collects problems while a file is lowered.
#[derive(Debug, Default)]
pub(super) struct Sink {
    list: Vec<Complaint>,
}

impl Sink {
    /// Takes one more.
    pub(super) fn push(&mut self, complaint: Complaint) {
        self.list.push(complaint);
    }

    /// Is there an error among them?
    pub(super) fn failed(&self) -> bool {
        self.list.iter().any(|c| c.0.severity == Severity::Error)
    }

    /// All of them, in the order of the file's lines; those without a place last.
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
