//! What the templates in web/templates show. Text is escaped by askama, everywhere: columns of the database are strangers' text.

use askama::Template;

use super::rows::Shown;
use crate::app::art;

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
        let picture = |(number, url): (usize, String)| Picture {
            alt: describe(shoe_id, number, count, &url),
            url,
            number,
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

/// What a picture is of: known of those that this server draws, of others only their place.
fn describe(shoe_id: i32, number: usize, count: usize, url: &str) -> String {
    let drawn = url
        .strip_prefix(&format!("/demo/shoes/{shoe_id}/"))
        .and_then(|rest| rest.strip_suffix(".svg"))
        .and_then(|view| view.parse().ok())
        .filter(|view| (1..=art::VIEWS).contains(view));
    match drawn {
        Some(view) => format!("Shoe {shoe_id}, {}", art::view_name(view)),
        None => format!("Shoe {shoe_id}, picture {number} of {count}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_that_are_drawn_here_are_described_by_their_view() {
        assert_eq!(
            describe(7, 1, 9, "/demo/shoes/7/3.svg"),
            "Shoe 7, from above"
        );
        for other in [
            "/demo/shoes/8/3.svg",
            "/demo/shoes/7/8.svg",
            "https://cdn.example/3.svg",
        ] {
            assert_eq!(describe(7, 2, 9, other), "Shoe 7, picture 2 of 9");
        }
    }
}
