//! Which file of `src/` imports which, read with a real parser: nested `use` groups, renames,
//! re-exports, globs, and paths in the middle of an expression all count.
//!
//! A path is resolved to the file that defines the name. A module that only re-exports a name is
//! looked through, so `use crate::h1::Body` is an import of `h1/body.rs`, and a `mod.rs` that
//! lists its children is no part of a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree, Visibility};

/// A module's path below the crate, such as `["proxy", "request"]`.
type Module = Vec<String>;

/// A source file without its tests.
pub(crate) struct Source {
    /// Its path below `src/`.
    pub(crate) path: String,
    module: Module,
    /// Names that it defines.
    defines: BTreeSet<String>,
    /// Names that it passes on: the name, or `*`, and the path that it stands for.
    re_exports: Vec<(String, Vec<String>)>,
    /// Paths that it uses, from the crate's root.
    uses: Vec<Vec<String>>,
}

/// All source files, and who imports whom.
pub(crate) struct Imports {
    sources: Vec<Source>,
    by_module: BTreeMap<Module, usize>,
}

impl Imports {
    /// Reads every file below `src`.
    pub(crate) fn read(src: &Path) -> Self {
        let mut sources = Vec::new();
        for file in crate::files(src, "rs") {
            if !crate::is_test(&file) {
                sources.push(Source::read(src, &file));
            }
        }
        Self::of(sources)
    }

    fn of(sources: Vec<Source>) -> Self {
        let by_module = sources.iter().enumerate().map(|(index, s)| (s.module.clone(), index)).collect();
        Self { sources, by_module }
    }

    /// The files that each file imports, by path below `src/`.
    pub(crate) fn edges(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for source in &self.sources {
            let imported = edges.entry(&source.path).or_default();
            for path in &source.uses {
                if let Some(target) = self.resolve(path, 0)
                    && self.sources[target].path != source.path
                {
                    imported.insert(&self.sources[target].path);
                }
            }
        }
        edges
    }

    /// The file that defines what a path names.
    fn resolve(&self, path: &[String], depth: usize) -> Option<usize> {
        // Re-exports of re-exports end somewhere, or the program would not compile.
        assert!(depth < 16, "re-exports in a circle at {path:?}");
        let inside = (0..=path.len()).rev().find(|n| self.by_module.contains_key(&path[..*n]))?;
        let index = self.by_module[&path[..inside]];
        let source = &self.sources[index];
        let Some(name) = path.get(inside) else { return Some(index) };
        if source.defines.contains(name) {
            return Some(index);
        }
        for (passed_on, target) in &source.re_exports {
            if passed_on == name || passed_on == "*" {
                let mut full = target.clone();
                if passed_on == "*" {
                    full.push(name.clone());
                }
                full.extend_from_slice(&path[inside + 1..]);
                let found = self.resolve(&full, depth + 1)?;
                if passed_on == name || self.sources[found].defines.contains(name) {
                    return Some(found);
                }
            }
        }
        Some(index)
    }
}

impl Source {
    fn read(src: &Path, file: &Path) -> Self {
        let path = file.strip_prefix(src).expect("a file below src");
        let text = fs::read_to_string(file).expect("a readable file");
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Self {
        let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut source = Self {
            path: path.to_string_lossy().into_owned(),
            module: module_of(path),
            defines: BTreeSet::new(),
            re_exports: Vec::new(),
            uses: Vec::new(),
        };
        for item in &file.items {
            source.defines.extend(defined(item));
        }
        source.visit_file(&file);
        source
    }

    /// A path as written, from the crate's root; `None` if it leads out of the crate.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let ups = path.iter().take_while(|part| *part == "super").count();
        let (mut base, rest) = match path.first()?.as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (self.module.clone(), &path[1..]),
            "super" => (self.module[..self.module.len().checked_sub(ups)?].to_vec(), &path[ups..]),
            _ => return None,
        };
        base.extend_from_slice(rest);
        Some(base)
    }

    fn add_use(&mut self, tree: &UseTree, prefix: &[String], re_exported: bool) {
        let mut path = prefix.to_vec();
        match tree {
            UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.add_use(&part.tree, &path, re_exported);
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.add_use(tree, &path, re_exported));
            }
            UseTree::Name(name) => self.add_leaf(path, &name.ident.to_string(), None, re_exported),
            UseTree::Rename(name) => {
                let alias = name.rename.to_string();
                self.add_leaf(path, &name.ident.to_string(), Some(alias), re_exported);
            }
            UseTree::Glob(_) => {
                if let Some(path) = self.absolute(&self.rooted(path)) {
                    if re_exported {
                        self.re_exports.push(("*".to_owned(), path));
                    } else {
                        self.uses.push(path);
                    }
                }
            }
        }
    }

    fn add_leaf(&mut self, mut path: Vec<String>, name: &str, alias: Option<String>, re_exported: bool) {
        if name != "self" {
            path.push(name.to_owned());
        }
        let Some(path) = self.absolute(&self.rooted(path)) else { return };
        if re_exported {
            self.re_exports.push((alias.unwrap_or_else(|| name.to_owned()), path));
        } else {
            self.uses.push(path);
        }
    }

    /// `use child::Name` in a module file names its own child.
    fn rooted(&self, path: Vec<String>) -> Vec<String> {
        let own = path.first().is_some_and(|first| self.defines.contains(first));
        if own { std::iter::once("self".to_owned()).chain(path).collect() } else { path }
    }
}

impl Visit<'_> for Source {
    fn visit_item(&mut self, item: &Item) {
        let attributes = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        self.add_use(&item.tree, &[], !matches!(item.vis, Visibility::Inherited));
    }

    fn visit_item_mod(&mut self, item: &ItemMod) {
        assert!(item.content.is_none(), "{}: an inline module; give it a file", self.path);
    }

    /// `pub(super)` imports nothing.
    fn visit_visibility(&mut self, _: &Visibility) {}

    fn visit_path(&mut self, path: &syn::Path) {
        let parts: Vec<_> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        if let Some(path) = self.absolute(&parts).filter(|path| !path.is_empty()) {
            self.uses.push(path);
        }
        visit::visit_path(self, path);
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string() == "test")
    })
}

/// The names that an item brings into its module.
fn defined(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Mod(item) => &item.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

fn module_of(path: &Path) -> Module {
    let mut parts: Vec<_> =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// Groups that import each other in a circle: the strongly connected components with more than
/// one member, found by who reaches whom.
pub(crate) fn circles<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<Vec<&'a str>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        edges.keys().map(|from| (*from, reach(edges, from))).collect();
    let mut circles = BTreeSet::new();
    for (from, to) in &reached {
        let together: Vec<_> = to
            .iter()
            .copied()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(from)))
            .collect();
        if together.len() > 1 {
            circles.insert(together);
        }
    }
    circles.into_iter().collect()
}

fn reach<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&str> = edges[from].iter().copied().collect();
    while let Some(file) = next.pop() {
        if reached.insert(file) {
            next.extend(edges.get(file).into_iter().flatten());
        }
    }
    reached
}

/// The same edges between the children of a folder: `proxy/` has the children `request` (a
/// folder) and `view` (a file). A file and the folder of its submodules are one child.
pub(crate) fn between_children<'a>(
    edges: &BTreeMap<&'a str, BTreeSet<&'a str>>,
    folder: &str,
) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let child = |file: &'a str| {
        let below = file.strip_prefix(folder)?;
        let child = below.split('/').next()?;
        let name = child.strip_suffix(".rs").unwrap_or(child);
        (!["mod", "lib", "main"].contains(&name)).then_some(name)
    };
    let mut between: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in edges {
        let Some(from) = child(from) else { continue };
        let imported = between.entry(from).or_default();
        imported.extend(to.iter().filter_map(|to| child(to)).filter(|to| *to != from));
    }
    between
}

/// Every folder below `src/` that holds sources, with a slash at its end; `""` is `src/` itself.
pub(crate) fn folders<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    edges.keys().flat_map(|file| file.match_indices('/').map(|(at, _)| &file[..=at]).chain([""])).collect()
}

/// Sources that are given as text.
fn made_of(files: &[(&str, &str)]) -> Imports {
    Imports::of(files.iter().map(|(path, text)| Source::parse(&PathBuf::from(path), text)).collect())
}

#[test]
fn nested_groups_renames_globs_and_inline_paths_are_seen() {
    let imports = made_of(&[
        ("lib.rs", "pub mod a; pub mod b; pub mod c; pub mod d; pub mod e; pub mod f;"),
        (
            "a.rs",
            "use crate::{b::{self, X}, c::Y as Z}; use super::d::*; fn f() { crate::e::g(); let _: super::f::T; }",
        ),
        ("b.rs", "pub(super) struct X;"),
        ("c.rs", "pub struct Y;"),
        ("d.rs", ""),
        ("e.rs", "pub fn g() {}"),
        ("f.rs", "pub type T = u8; #[cfg(test)] mod tests { use crate::a; }"),
    ]);
    let edges = imports.edges();
    assert_eq!(edges["a.rs"], BTreeSet::from(["b.rs", "c.rs", "d.rs", "e.rs", "f.rs"]));
    assert!(edges["f.rs"].is_empty(), "tests may import anything");
}

#[test]
fn a_re_export_leads_to_the_file_that_defines_the_name() {
    let imports = made_of(&[
        ("lib.rs", "mod a; mod b;"),
        ("a/mod.rs", "mod x; mod y; pub use x::One; pub use self::y::*;"),
        ("a/x.rs", "use super::Two; pub struct One;"),
        ("a/y.rs", "pub struct Two;"),
        ("b.rs", "use crate::a::{One, Two};"),
    ]);
    let edges = imports.edges();
    assert_eq!(edges["b.rs"], BTreeSet::from(["a/x.rs", "a/y.rs"]));
    assert_eq!(edges["a/x.rs"], BTreeSet::from(["a/y.rs"]));
    assert!(edges["a/mod.rs"].is_empty());
}

#[test]
fn a_circle_is_found_however_long_it_is() {
    let imports = made_of(&[
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a.rs", "use crate::b::B; pub struct A;"),
        ("b.rs", "use crate::c::C; pub struct B;"),
        ("c.rs", "use crate::a::A; pub struct C;"),
        ("d.rs", "use crate::a::A;"),
    ]);
    assert_eq!(circles(&imports.edges()), [["a.rs", "b.rs", "c.rs"]]);
}

#[test]
fn folders_that_import_each_other_are_a_circle_even_if_no_files_are() {
    let imports = made_of(&[
        ("lib.rs", "mod a; mod b;"),
        ("a/mod.rs", "pub mod x; pub mod y;"),
        ("a/x.rs", "use crate::b::z::Z;"),
        ("a/y.rs", "pub struct Y;"),
        ("b/mod.rs", "pub mod w; pub mod z;"),
        ("b/w.rs", "use crate::a::y::Y;"),
        ("b/z.rs", "pub struct Z;"),
    ]);
    let edges = imports.edges();
    assert!(circles(&edges).is_empty());
    assert_eq!(circles(&between_children(&edges, "")), [["a", "b"]]);
}
