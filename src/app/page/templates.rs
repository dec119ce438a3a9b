//! What the templates in web/templates show. Text is escaped by askama, everywhere: columns of the database are strangers' text.

use askama::Template;

use super::rows::Shown;

/// A shoe's page.
#[derive(Template)]
#[template(path = "product.html")]
pub(super) struct Product {
    pub(super) shoe_id: i32,
    pub(super) pictures: Vec<Picture>,
    pub(super) clips: Vec<Clip>,
    /// Part of another page: the gallery alone.
    pub(super) embedded: bool,
}

pub(super) struct Picture {
    pub(super) url: String,
    /// From 1.
    pub(super) number: usize,
    pub(super) alt: String,
}

pub(super) struct Clip {
    pub(super) url: String,
    /// From 1.
    pub(super) number: usize,
    pub(super) label: String,
}

/// There is no such shoe, or no number to look for.
#[derive(Template)]
#[template(path = "unknown.html")]
pub(super) struct Unknown {
    pub(super) shoe_id: Option<i32>,
}

/// The front page, with some shoes to begin with.
#[derive(Template)]
#[template(path = "front.html")]
pub(super) struct Front {
    pub(super) shoes: Vec<i32>,
}

/// The form for who may write.
#[derive(Template)]
#[template(path = "editor.html")]
pub(super) struct Editor {}

/// The database gives no answer.
#[derive(Template)]
#[template(path = "unavailable.html")]
pub(super) struct Unavailable {}

impl Product {
    pub(super) fn of(shoe_id: i32, shown: Shown, embedded: bool) -> Self {
        let count = shown.pictures.len();
        let picture = |(number, url)| Picture {
            url,
            number,
            alt: format!("Shoe {shoe_id}, picture {number} of {count}"),
        };
        let clip = |(number, url)| Clip {
            url,
            number,
            label: format!("Shoe {shoe_id}, video {number}"),
        };
        Product {
            shoe_id,
            pictures: (1..).zip(shown.pictures).map(picture).collect(),
            clips: (1..).zip(shown.clips).map(clip).collect(),
            embedded,
        }
    }
}
