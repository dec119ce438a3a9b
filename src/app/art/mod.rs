//! The pictures of the demo catalogue: drawn shoes, each always the same by its number. Nothing but arithmetic and text, so that
//! they need no file, no network, and little of a coroutine's stack.
//!
//! `style` decides what a shoe is like, `last` is the form that it stands on, `camera` looks at it, `body` (with `trim` and
//! `wall`, by the tools of `easel`) and `flat` draw what is seen, and `pen` writes it down in few bytes.

mod body;
mod camera;
mod easel;
mod flat;
mod last;
mod pen;
mod style;
mod trim;
mod wall;

use self::camera::{Camera, Spot};
use self::last::Last;
use self::style::Style;

/// How many views there are of each shoe; they are numbered from 1.
pub const VIEWS: u8 = 7;

/// The units of a picture.
const WIDTH: u16 = 1600;
const HEIGHT: u16 = 1200;
/// The axis that the two shoes of a pair mirror each other on.
const MIDDLE: f32 = 800.0;

/// What a view shows, as it continues "Shoe 7, …".
pub fn view_name(view: u8) -> &'static str {
    match view {
        1 => "side view",
        2 => "three-quarter view",
        3 => "from above",
        4 => "front view",
        5 => "heel",
        6 => "sole",
        _ => "detail of the material",
    }
}

/// The SVG document of a shoe in one view: 1 side, 2 three-quarter, 3 top, 4 front, 5 heel, 6 sole, and 7, or any other number, a
/// detail of the material. Less than 16 KB, and the same for the same numbers.
pub fn draw(shoe_id: i32, view: u8) -> String {
    let style = Style::of(shoe_id);
    let last = Last::of(&style);
    let name = view_name(view);
    let content = match view {
        1 => alone(&style, &last, Camera::new(-5.0, 7.0), [1250.0, 800.0], 44.0),
        2 => alone(
            &style,
            &last,
            Camera::new(-40.0, 21.0),
            [1180.0, 820.0],
            52.0,
        ),
        3 => pair(
            &style,
            &last,
            Camera::new(90.0, 84.0),
            [1050.0, 600.0],
            [440.0, 980.0],
        ),
        4 => pair(
            &style,
            &last,
            Camera::new(-84.0, 15.0),
            [510.0, 610.0],
            [520.0, 760.0],
        ),
        5 => pair(
            &style,
            &last,
            Camera::new(85.0, 14.0),
            [1090.0, 610.0],
            [520.0, 760.0],
        ),
        6 => soles(&style, &last),
        _ => flat::detail(&style),
    };
    document(&format!("Shoe {shoe_id}, {name}"), &style, &content)
}

/// A shoe on its way around: turned by `yaw` degrees, with its heel lifted by `flex` radians. For the clips.
pub fn frame(shoe_id: i32, yaw: f32, flex: f32) -> String {
    let style = Style::of(shoe_id);
    let last = Last::of(&style).flexed(flex);
    let camera = Camera::new(yaw, 12.0).at(37.0, [800.0, 640.0]);
    let content = standing(&style, &last, &camera, false);
    document(&format!("Shoe {shoe_id}"), &style, &content)
}

fn document(title: &str, style: &Style, content: &str) -> String {
    let paper = style.palette.paper;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\
         <title>{title}</title><desc>A drawn {} of {}.</desc>\
         <radialGradient id=\"paper\" cx=\".5\" cy=\".42\" r=\".78\"><stop stop-color=\"{}\"/><stop offset=\".55\" stop-color=\"{}\"/><stop offset=\"1\" stop-color=\"{}\"/></radialGradient>\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"url(#paper)\"/>{content}</svg>",
        style.kind.name(),
        style.texture.name(),
        paper.lighter(0.5),
        paper.lighter(0.12),
        paper.darker(0.1),
    )
}

fn alone(style: &Style, last: &Last, camera: Camera, size: Spot, most: f32) -> String {
    let camera = camera.fit(&body::extent(last), [MIDDLE, 610.0], size, most);
    standing(style, last, &camera, false)
}

fn pair(style: &Style, last: &Last, camera: Camera, middle: Spot, size: Spot) -> String {
    let camera = camera.fit(&body::extent(last), middle, size, 80.0);
    standing(style, last, &camera, true)
}

fn standing(style: &Style, last: &Last, camera: &Camera, paired: bool) -> String {
    let shadow = body::shadow(last, camera);
    let shoe = body::draw(style, last, camera);
    let definitions = body::definitions(style);
    assemble(&definitions, &shadow, &shoe, paired)
}

fn soles(style: &Style, last: &Last) -> String {
    let camera =
        Camera::new(-90.0, -86.0).fit(&body::extent(last), [560.0, 600.0], [440.0, 980.0], 80.0);
    let shadow = flat::sole_shadow(last, &camera);
    let sole = flat::sole(style, last, &camera);
    assemble(&flat::sole_definitions(style), &shadow, &sole, true)
}

/// Shadows below shoes; of a pair the second is the first in a mirror.
fn assemble(definitions: &str, shadow: &str, shoe: &str, paired: bool) -> String {
    if !paired {
        return format!("<defs>{definitions}</defs>{shadow}{shoe}");
    }
    let mirror = format!("transform=\"matrix(-1 0 0 1 {WIDTH} 0)\"");
    format!(
        "<defs>{definitions}</defs><g id=\"sh\">{shadow}</g><use href=\"#sh\" {mirror}/><g id=\"one\">{shoe}</g><use href=\"#one\" {mirror}/>"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Numbers of every kind and colour, and those at the ends.
    fn ids() -> impl Iterator<Item = i32> {
        (-70..70).chain([i32::MIN, i32::MIN + 1, 1_000_000, i32::MAX - 1, i32::MAX])
    }

    #[test]
    fn a_shoe_is_always_the_same() {
        for view in 1..=VIEWS {
            assert_eq!(draw(7, view), draw(7, view));
        }
    }

    #[test]
    fn every_picture_is_well_formed_and_small() {
        for id in ids() {
            for view in 1..=VIEWS {
                let picture = draw(id, view);
                let document = roxmltree::Document::parse(&picture)
                    .unwrap_or_else(|error| panic!("shoe {id}, view {view}: {error}"));
                let root = document.root_element();
                assert!(root.has_tag_name(("http://www.w3.org/2000/svg", "svg")));
                let title = root.children().find(|node| node.has_tag_name("title"));
                let title = title.and_then(|node| node.text()).unwrap_or_default();
                assert_eq!(title, format!("Shoe {id}, {}", view_name(view)));
                assert!(
                    picture.len() < 16 * 1024,
                    "shoe {id}, view {view}: {} bytes",
                    picture.len()
                );
                assert!(
                    !picture.contains("NaN") && !picture.contains("inf"),
                    "shoe {id}, view {view}"
                );
            }
        }
    }

    /// What a picture refers to is in it: an `href` or `url(#…)` that leads nowhere would leave a hole.
    #[test]
    fn every_reference_leads_somewhere() {
        for id in 0..10 {
            for view in 1..=VIEWS {
                let picture = draw(id, view);
                let document = roxmltree::Document::parse(&picture).unwrap();
                let names: HashSet<&str> = document
                    .descendants()
                    .filter_map(|node| node.attribute("id"))
                    .collect();
                for attribute in document.descendants().flat_map(|node| node.attributes()) {
                    let value = attribute.value();
                    let name = value
                        .strip_prefix("url(#")
                        .and_then(|rest| rest.strip_suffix(')'))
                        .or_else(|| {
                            value
                                .strip_prefix('#')
                                .filter(|_| attribute.name() == "href")
                        });
                    if let Some(name) = name {
                        assert!(names.contains(name), "shoe {id}, view {view}: #{name}");
                    }
                }
            }
        }
    }

    #[test]
    fn shoes_and_views_differ() {
        let without_title = |picture: String| {
            picture
                .split_once("</title>")
                .map(|(_, rest)| rest.to_owned())
        };
        for view in 1..=VIEWS - 1 {
            let seen: HashSet<_> = (1..=300).map(|id| without_title(draw(id, view))).collect();
            assert_eq!(seen.len(), 300, "view {view}");
        }
        for id in ids() {
            let seen: HashSet<_> = (1..=VIEWS)
                .map(|view| without_title(draw(id, view)))
                .collect();
            assert_eq!(seen.len(), usize::from(VIEWS), "shoe {id}");
        }
    }

    #[test]
    fn a_frame_turns_and_bends() {
        assert_ne!(frame(7, 0.0, 0.0), frame(7, 10.0, 0.0));
        assert_ne!(frame(7, 0.0, 0.0), frame(7, 0.0, 0.3));
        for step in 0..36 {
            let picture = frame(7, step as f32 * 10.0, 0.0);
            assert!(roxmltree::Document::parse(&picture).is_ok(), "{step}");
        }
    }
}
