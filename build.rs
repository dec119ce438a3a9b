//! Makes the table of what is served to visitors from the binary itself: the files below web/assets, each under a name that
//! changes with its content, so that browsers may keep it for ever. (The operator's live page has its own names: it is asked anew
//! each time, by people who may be at an old one.)
//!
//! A script or a style sheet names its neighbours as `./NAME`; here that becomes the fingerprinted name, so what is named is
//! fingerprinted first, and a change in one file gives all that lead to it a new name. What can be compressed is, as well as
//! brotli and gzip can. The same sources make the same table.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

#[path = "src/app/media_type.rs"]
mod media_type;

/// The folder below web/, and below which path its files are served.
const FOLDER: &str = "assets";
const PREFIX: &str = "/assets/";

/// What stands around a reference: the ends of strings in scripts and markup, and `url(…)` in style sheets.
const BEFORE: [char; 4] = ['"', '\'', '`', '('];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/app/media_type.rs");
    println!("cargo:rerun-if-changed=web");
    let mut code = String::new();
    let sources = read_all(&root.join("web").join(FOLDER))?;
    let made = Maker::new(&sources).make_all()?;
    write_table(&mut code, &out, &made)?;
    fs::write(out.join("assets.rs"), code)?;
    Ok(())
}

/// Each file below the folder by its name there. Hidden ones are editors' and left out.
fn read_all(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, Box<dyn Error>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inside) = folders.pop() {
        for entry in fs::read_dir(&inside)? {
            let path = entry?.path();
            let name = path
                .strip_prefix(folder)?
                .to_str()
                .ok_or_else(|| format!("{} is not UTF-8", path.display()))?;
            if path
                .file_name()
                .is_some_and(|last| last.as_encoded_bytes().starts_with(b"."))
            {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(name.to_owned(), fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

/// A file as it is served.
struct Made {
    url: String,
    fingerprint: String,
    content: Vec<u8>,
}

/// Fingerprints the files of a folder, those first that others name.
struct Maker<'s> {
    sources: &'s BTreeMap<String, Vec<u8>>,
    made: BTreeMap<String, Made>,
    /// The files that are being made, each named by the one before it.
    under_way: Vec<String>,
}

impl<'s> Maker<'s> {
    fn new(sources: &'s BTreeMap<String, Vec<u8>>) -> Self {
        Maker {
            sources,
            made: BTreeMap::new(),
            under_way: Vec::new(),
        }
    }

    fn make_all(mut self) -> Result<BTreeMap<String, Made>, Box<dyn Error>> {
        for name in self.sources.keys() {
            self.make(name)?;
        }
        Ok(self.made)
    }

    /// Makes a file, unless it is made already; its URL.
    fn make(&mut self, name: &str) -> Result<String, Box<dyn Error>> {
        if let Some(made) = self.made.get(name) {
            return Ok(made.url.clone());
        }
        let source = self.sources.get(name).ok_or_else(|| {
            format!(
                "{} names {name}, which is not there",
                self.under_way.join(" → ")
            )
        })?;
        if self.under_way.iter().any(|other| other == name) {
            return Err(format!(
                "files name each other in a circle: {} → {name}",
                self.under_way.join(" → ")
            )
            .into());
        }
        self.under_way.push(name.to_owned());
        let content = match name.rsplit_once('.') {
            Some((_, "css" | "js" | "mjs" | "html")) => {
                let text =
                    std::str::from_utf8(source).map_err(|error| format!("{name}: {error}"))?;
                self.rewrite(name, text)?.into_bytes()
            }
            _ => source.clone(),
        };
        self.under_way.pop();
        let fingerprint = format!("{:016x}", xxh3_64(&content));
        let url = match name.rsplit_once('.') {
            Some((stem, extension)) => format!("{PREFIX}{stem}.{fingerprint}.{extension}"),
            None => format!("{PREFIX}{name}.{fingerprint}"),
        };
        let made = Made {
            url: url.clone(),
            fingerprint,
            content,
        };
        self.made.insert(name.to_owned(), made);
        Ok(url)
    }

    /// The text with the URL of each neighbour in the place of its `./NAME`.
    fn rewrite(&mut self, name: &str, text: &str) -> Result<String, Box<dyn Error>> {
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("./") {
            let (before, reference) = rest.split_at(at);
            out.push_str(before);
            let path = &reference[2..];
            let end = path
                .find(|c: char| !(c.is_ascii_alphanumeric() || "-_./".contains(c)))
                .unwrap_or(path.len());
            let (neighbour, after) = path.split_at(end);
            if before.ends_with(BEFORE) && !neighbour.is_empty() {
                let whole = match folder {
                    "" => neighbour.to_owned(),
                    folder => format!("{folder}/{neighbour}"),
                };
                out.push_str(&self.make(&whole)?);
                rest = after;
            } else {
                out.push_str("./");
                rest = path;
            }
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// Writes the files into the folder of the build, and the table itself to the end of `code`.
fn write_table(
    code: &mut String,
    out: &Path,
    made: &BTreeMap<String, Made>,
) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(out.join(FOLDER))?;
    writeln!(code, "/// The files below web/{FOLDER}, by name.")?;
    writeln!(code, "pub static ASSETS: &[Asset] = &[")?;
    for (index, (name, made)) in made.iter().enumerate() {
        let kind = media_type::of(name);
        let include = |coding: &str, bytes: &[u8]| -> Result<String, Box<dyn Error>> {
            // Numbered, since names may have folders.
            let file = format!("{FOLDER}/{index}.{coding}");
            fs::write(out.join(&file), bytes)?;
            Ok(format!(
                "include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{file}\"))"
            ))
        };
        let coded = |coding: &str, bytes: Vec<u8>| match bytes.len() < made.content.len() {
            true => include(coding, &bytes).map(|bytes| format!("Some({bytes})")),
            false => Ok("None".to_owned()),
        };
        let (brotli, gzip) = match kind.compressible {
            true => (
                coded("br", brotli(&made.content)?)?,
                coded("gz", gzip(&made.content)?)?,
            ),
            false => ("None".to_owned(), "None".to_owned()),
        };
        let identity = include("raw", &made.content)?;
        writeln!(
            code,
            "    Asset {{ name: {name:?}, url: {:?}, fingerprint: {:?}, content_type: {:?}, content: {identity}, brotli: {brotli}, gzip: {gzip} }},",
            made.url, made.fingerprint, kind.name,
        )?;
    }
    writeln!(code, "];")?;
    Ok(())
}

fn brotli(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let parameters = brotli::enc::BrotliEncoderParams {
        quality: 11,
        lgwin: 22,
        size_hint: bytes.len(),
        ..Default::default()
    };
    let mut compressed = Vec::new();
    brotli::BrotliCompress(&mut &*bytes, &mut compressed, &parameters)?;
    Ok(compressed)
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}
