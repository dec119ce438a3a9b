//! Draws a shoe on its form: from the ground up, shadow, inside, tongue, upper, laces and sole. What lies on the upper is said
//! in the form's own coordinates, so that each view is of the same shoe.

use std::fmt::Write;

use super::camera::{Camera, Spot, faces};
use super::easel::{Easel, corners, outline, steps};
use super::last::{AROUND, Last, Point};
use super::pen::Pen;
use super::style::{Kind, Palette, Rgb, Style};

/// The definitions that [`draw`]'s elements refer to.
pub(super) fn definitions(style: &Style) -> String {
    let Palette {
        lining, midsole, ..
    } = style.palette;
    format!(
        "<filter id=\"soft\" x=\"-20%\" y=\"-20%\" width=\"140%\" height=\"140%\"><feGaussianBlur stdDeviation=\"24\"/></filter>\
         <filter id=\"mist\" x=\"-20%\" y=\"-60%\" width=\"140%\" height=\"220%\"><feGaussianBlur stdDeviation=\"26\"/></filter>\
         <linearGradient id=\"in\" x1=\"0\" y1=\"0\" x2=\"0\" y2=\"1\"><stop stop-color=\"{}\"/><stop offset=\"1\" stop-color=\"{}\"/></linearGradient>\
         <linearGradient id=\"mid\" x1=\"0\" y1=\"0\" x2=\"0\" y2=\"1\"><stop stop-color=\"{}\"/><stop offset=\".55\" stop-color=\"{}\"/><stop offset=\"1\" stop-color=\"{}\"/></linearGradient>",
        lining.darker(0.25),
        lining.darker(0.75),
        midsole.lighter(0.35),
        midsole,
        midsole.darker(0.22),
    )
}

/// The shoe's elements, as the camera sees it.
pub(super) fn draw(style: &Style, last: &Last, camera: &Camera) -> String {
    let mut palette = style.palette;
    if style.swapped {
        std::mem::swap(&mut palette.upper, &mut palette.overlay);
    }
    let mut easel = Easel {
        style,
        palette,
        last,
        camera,
        out: String::with_capacity(12 * 1024),
    };
    easel.inside();
    easel.tongue();
    easel.upper();
    easel.laces();
    easel.sole();
    easel.out
}

/// The shadow on the ground under a shoe that stands there.
pub(super) fn shadow(last: &Last, camera: &Camera) -> String {
    let ring = |spread: f32, shift: f32| {
        let mut pen = Pen::default();
        pen.shape(steps(0.0, AROUND, 42).map(|a| {
            let [x, _, z] = last.underside(a, -spread);
            camera.spot([x + shift, 0.0, z])
        }));
        pen.data()
    };
    format!(
        "<g filter=\"url(#mist)\"><path d=\"{}\" opacity=\".2\"/><path d=\"{}\" opacity=\".5\"/></g>",
        ring(1.1, 0.5),
        ring(-0.3, 0.0),
    )
}

/// The points that a picture of the shoe must have room for.
pub(super) fn extent(last: &Last) -> Vec<Point> {
    let mut points: Vec<Point> = steps(0.0, AROUND, 28)
        .flat_map(|a| {
            [
                last.wall(a, 1.0),
                last.wall(a, 0.0),
                last.skin(a, 0.5),
                last.skin(a, 1.0),
            ]
        })
        .collect();
    points.extend(last.tongue(1.0, 0.0));
    points
}

impl Easel<'_> {
    fn inside(&mut self) {
        let Palette {
            lining,
            outsole,
            upper,
            ..
        } = self.palette;
        // Under everything: the sole, of which a rim shows beyond the upper from above.
        for (w, colour) in [(0.0, outsole), (1.0, upper.darker(0.4))] {
            let mut pen = Pen::default();
            pen.shape(steps(0.0, AROUND, 56).map(|a| self.wall(a, w)));
            self.fill(&pen.data(), &colour.to_string(), "");
        }
        let mut pen = Pen::default();
        pen.shape(steps(0.0, AROUND, 56).map(|a| self.skin(a, 1.0)));
        let rim = pen.data();
        self.fill(&rim, "url(#in)", "");
        let width = self.wide(0.34);
        self.stroke(
            &rim,
            lining.lighter(0.12),
            width,
            " stroke-linejoin=\"round\"",
        );
    }

    fn tongue(&mut self) {
        if !self.last.has_tongue() {
            return;
        }
        let at = |s: f32, q: f32| self.last.tongue(s, q).map(|point| self.camera.spot(point));
        let mut pen = Pen::default();
        let sides = steps(0.0, 1.0, 8).map(|s| (s, 1.0));
        let top = steps(1.0, -1.0, 6).map(|q| (1.0 + 0.03 * (1.0 - q * q), q));
        let back = steps(1.0, 0.0, 8).map(|s| (s, -1.0));
        pen.shape(sides.chain(top).chain(back).filter_map(|(s, q)| at(s, q)));
        let mut pad = Pen::default();
        pad.line(steps(1.0, -1.0, 8).filter_map(|q| at(0.93, 0.9 * q)));
        let mut ridge = Pen::default();
        ridge.line(steps(0.1, 1.0, 8).filter_map(|s| at(s, -0.3)));
        let Palette { upper, lining, .. } = self.palette;
        let colour = upper.mix(lining, 0.35);
        let (edge, light) = (self.wide(0.42), self.wide(0.9));
        let data = pen.data();
        self.stroke(
            &data,
            colour.darker(0.35),
            edge * 1.3,
            " stroke-linejoin=\"round\"",
        );
        self.fill(
            &data,
            &colour.to_string(),
            &format!(
                " stroke=\"{}\" stroke-width=\"{edge}\" stroke-linejoin=\"round\"",
                colour
            ),
        );
        self.stroke(
            &ridge.data(),
            Rgb::WHITE,
            light,
            " opacity=\".12\" stroke-linecap=\"round\"",
        );
        self.stitches(&pad.data(), colour);
    }

    fn upper(&mut self) {
        let Palette { upper, .. } = self.palette;
        let skin = |a: f32, v: f32| self.skin(a, v);
        let begin = self.hidden(&skin);
        let all = (begin, begin + AROUND);
        let base = self.strip(&skin, all, [64, 9], &|_| 0.0, &|_| 1.0);
        let _ = write!(
            self.out,
            "<path id=\"up\" d=\"{base}\" fill=\"{upper}\" stroke=\"{upper}\" stroke-width=\"2\" stroke-linejoin=\"round\"/>\
             <clipPath id=\"cut\"><use href=\"#up\"/></clipPath>"
        );
        // What stands out over the outline, by a thread's width, is cut as well.
        self.out.push_str("<g clip-path=\"url(#cut)\">");
        self.texture();
        self.overlays();
        self.out.push_str("</g>");
        self.shade(all);
        self.rim(all);
    }

    /// Light and shade over the whole upper: patches in a few tones, blurred, and cut at its outline.
    fn shade(&mut self, (from, to): (f32, f32)) {
        const TONES: [(f32, &str, f32); 7] = [
            (0.30, "000", 0.34),
            (0.42, "000", 0.25),
            (0.53, "000", 0.16),
            (0.63, "000", 0.08),
            (0.78, "fff", 0.0),
            (0.87, "fff", 0.14),
            (f32::MAX, "fff", 0.26),
        ];
        let (columns, rows) = (36, 5);
        let points: Vec<Vec<Point>> = steps(0.0, 1.0, rows)
            .map(|v| {
                steps(from, to, columns)
                    .map(|a| self.last.skin(a, v))
                    .collect()
            })
            .collect();
        let grid: Vec<Vec<Spot>> = points
            .iter()
            .map(|line| line.iter().map(|point| self.camera.spot(*point)).collect())
            .collect();
        let tone = |column: usize, row: usize| {
            let corners = corners(column, row);
            if !faces(corners.map(|(column, row)| grid[row][column])) {
                return None;
            }
            let [a, b, _, c] = corners.map(|(column, row)| points[row][column]);
            let bright = self.camera.brightness([a, b, c]);
            TONES.iter().position(|(below, ..)| bright < *below)
        };
        let mut group = String::from("<g clip-path=\"url(#cut)\"><g filter=\"url(#soft)\">");
        for (index, (_, colour, opacity)) in TONES.into_iter().enumerate() {
            let data = match opacity > 0.0 {
                true => outline(&grid, &|column, row| tone(column, row) == Some(index)),
                false => continue,
            };
            if !data.is_empty() {
                let _ = write!(
                    group,
                    "<path d=\"{data}\" fill=\"#{colour}\" opacity=\"{opacity}\"/>"
                );
            }
        }
        // Where the upper meets the sole there is never much light.
        let crease = self.on_skin(steps(from, to, 56).map(|a| (a, 0.0)));
        let _ = write!(
            group,
            "<path d=\"{crease}\" fill=\"none\" stroke=\"#000\" stroke-width=\"{}\" opacity=\".5\"/></g></g>",
            self.wide(0.8)
        );
        self.out.push_str(&group);
    }

    /// The near edge of the opening, over what is behind it.
    fn rim(&mut self, (from, to): (f32, f32)) {
        let Palette { lining, .. } = self.palette;
        let near = self.on_skin(steps(from, to, 84).map(|a| (a, 1.0)));
        let layers = [
            (lining.darker(0.12), self.wide(0.2), ""),
            (Rgb::WHITE, self.wide(0.06), " opacity=\".35\""),
        ];
        self.strokes("rm", &near, &layers);
    }

    fn laces(&mut self) {
        let Palette { lace, accent, .. } = self.palette;
        if !self.last.has_tongue() {
            return;
        }
        // From behind the laces are on the other side of the shoe.
        let [.., towards] = self.camera.turned([18.0, 9.0, 0.0]);
        let [.., away] = self.camera.turned([12.0, 5.0, 0.0]);
        if towards <= away {
            return;
        }
        let (width, eyelet) = (self.wide(0.62), self.wide(0.2));
        let mut bars = Pen::default();
        let mut holes = Pen::default();
        let top = if self.style.kind == Kind::HighTop {
            4.15
        } else {
            4.2
        };
        for a in steps(6.25, top, self.style.eyelets - 1) {
            let near = self.last.skin(a, 0.93);
            let far = self.last.skin(AROUND - a, 0.93);
            let over: Point = std::array::from_fn(|axis| (near[axis] + far[axis]) / 2.0);
            let rise = 1.15;
            let over = [over[0] + 0.55 * rise, over[1] + 1.35 * rise, over[2]];
            bars.arc(
                self.camera.spot(near),
                self.camera.spot(over),
                self.camera.spot(far),
            );
            for place in [near, far] {
                let [x, y] = self.camera.spot(place);
                holes.line([[x, y], [x + 1.0, y]]);
            }
        }
        let (dash, gap) = (self.wide(0.07), self.wide(0.12));
        let woven =
            format!(" stroke-dasharray=\"{dash} {gap}\" stroke-linecap=\"butt\" opacity=\".7\"");
        let holes = holes.data();
        self.strokes(
            "lc",
            &bars.data(),
            &[
                (Rgb::BLACK, width * 1.25, " opacity=\".28\""),
                (lace.darker(0.2), width, ""),
                (lace, width * 0.72, ""),
                (accent, width * 0.16, &woven),
            ],
        );
        self.stroke(
            &holes,
            Rgb::BLACK,
            eyelet * 1.5,
            " opacity=\".65\" stroke-linecap=\"round\"",
        );
    }
}
