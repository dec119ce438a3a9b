//! What is served from the binary itself: style sheets, scripts, icons and clips, under names that change with their content
//! (build.rs makes the table). Called by the routes, which serve them, and by the templates, which name them.

use std::borrow::Cow;

use bytes::Bytes;

use super::content::{Cached, Content};

/// A file of a table.
#[derive(Debug)]
pub struct Asset {
    /// Below its folder of the sources: `product.css`, `clips/turn.mp4`.
    pub name: &'static str,
    /// The path that it is served at; another one as soon as its content changes.
    pub url: &'static str,
    /// The hash in that path.
    pub fingerprint: &'static str,
    pub content_type: &'static str,
    pub content: &'static [u8],
    /// Where that is smaller.
    pub brotli: Option<&'static [u8]>,
    pub gzip: Option<&'static [u8]>,
}

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// Where nothing is: what a page leads to that names an asset which does not exist.
const NOWHERE: &str = "/assets/none";

impl Asset {
    /// What is served, and how long it may be kept.
    pub fn content(&self, cached: Cached) -> Content {
        Content {
            content_type: self.content_type,
            cached,
            tag: Cow::Borrowed(self.fingerprint),
            modified: None,
            identity: Bytes::from_static(self.content),
            brotli: self.brotli.map(Bytes::from_static),
            gzip: self.gzip.map(Bytes::from_static),
        }
    }
}

/// The URL of the page's asset with this name under web/assets/. A test holds the templates to names that exist.
pub fn url(name: &str) -> &'static str {
    named(ASSETS, name).map_or(NOWHERE, |asset| asset.url)
}

/// The asset of a table with this name.
pub fn named(table: &'static [Asset], name: &str) -> Option<&'static Asset> {
    let at = table.binary_search_by(|asset| asset.name.cmp(name)).ok()?;
    table.get(at)
}

/// The asset of a table that is served at this path. One of another version of the program is none.
pub fn at(table: &'static [Asset], path: &str) -> Option<&'static Asset> {
    table.iter().find(|asset| asset.url == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_by_its_name_and_at_its_path() {
        for asset in ASSETS {
            assert!(asset.url.starts_with("/assets/"), "{}", asset.url);
            assert_eq!(asset.fingerprint.len(), 16, "{}", asset.name);
            assert!(asset.url.contains(asset.fingerprint), "{}", asset.url);
            let found = [named(ASSETS, asset.name), at(ASSETS, asset.url)];
            assert_eq!(
                found.map(|found| found.map(|a| a.url)),
                [Some(asset.url); 2]
            );
            assert!(at(ASSETS, &format!("/assets/{}", asset.name)).is_none());
            for smaller in [asset.brotli, asset.gzip].into_iter().flatten() {
                assert!(smaller.len() < asset.content.len(), "{}", asset.name);
            }
        }
        assert_eq!(url("no such asset"), NOWHERE);
        assert!(at(ASSETS, NOWHERE).is_none());
    }

    /// A fingerprint in a text would be of no use if the name that it replaces were still there.
    #[test]
    fn no_script_and_no_style_sheet_names_a_neighbour_by_its_plain_name() {
        for asset in ASSETS {
            if !asset.content_type.contains("css") && !asset.content_type.contains("javascript") {
                continue;
            }
            let text = std::str::from_utf8(asset.content).expect("text");
            for quote in ["\"./", "'./", "(./"] {
                assert!(!text.contains(quote), "{} in {}", quote, asset.name);
            }
        }
    }

    /// What gzip and brotli made of an asset is the asset.
    #[test]
    fn every_coding_holds_the_same_content() {
        use std::io::Read;
        for asset in ASSETS {
            if let Some(gzip) = asset.gzip {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(gzip)
                    .read_to_end(&mut plain)
                    .expect("gzip");
                assert!(plain == asset.content, "{}", asset.name);
            }
            if let Some(mut brotli) = asset.brotli {
                let mut plain = Vec::new();
                brotli::BrotliDecompress(&mut brotli, &mut plain).expect("brotli");
                assert!(plain == asset.content, "{}", asset.name);
            }
        }
    }

    /// Every `url("…")` of a template leads somewhere.
    #[test]
    fn templates_name_assets_that_exist() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/web/templates");
        let mut named = 0;
        for entry in std::fs::read_dir(folder).expect("the templates") {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("a template");
            for call in text.split("assets::url(").skip(1) {
                let name = call.split('"').nth(1).expect("a name in quotes");
                assert_ne!(url(name), NOWHERE, "{name} in {}", path.display());
                named += 1;
            }
        }
        assert!(named > 0, "no template names an asset");
    }
}
