//! The two views in which nothing is round: the underside, and the material from so near that it fills the picture.

use std::fmt::Write;

use super::camera::{Camera, Spot};
use super::last::{AROUND, Last, lerp};
use super::pen::Pen;
use super::style::{Kind, Palette, Rgb, Style, Texture, Tread, Wall};

/// Definitions of both views.
pub(super) fn sole_definitions(style: &Style) -> String {
    let Palette {
        outsole, accent, ..
    } = style.palette;
    let mut out = String::from(
        "<filter id=\"mist\" x=\"-20%\" y=\"-20%\" width=\"140%\" height=\"140%\"><feGaussianBlur stdDeviation=\"24\"/></filter>\
         <linearGradient id=\"across\"><stop stop-color=\"#000\" stop-opacity=\".3\"/><stop offset=\".3\" stop-color=\"#fff\" stop-opacity=\".1\"/>\
         <stop offset=\".62\" stop-color=\"#fff\" stop-opacity=\"0\"/><stop offset=\"1\" stop-color=\"#000\" stop-opacity=\".34\"/></linearGradient>",
    );
    let (width, height, lines) = match style.tread {
        Tread::Chevrons => (52, 34, "M-6 30 26 8l32 22"),
        Tread::Ripples => (56, 30, "M-14 15q14-16 28 0t28 0 28 0"),
        Tread::Blocks => (46, 60, "M6 14h34M-17 44h34M29 44h34"),
        Tread::Herringbone => (48, 34, "M0 34 24 0M24 0l24 34M0 0l-24 34M48 0l24 34"),
        Tread::Discs => (44, 44, "M22 22h.1M0 0h.1M44 0h.1M0 44h.1M44 44h.1"),
    };
    let thick = match style.tread {
        Tread::Discs => 22,
        Tread::Blocks => 17,
        Tread::Chevrons | Tread::Ripples | Tread::Herringbone => 10,
    };
    for (id, ground) in [("tread", outsole), ("heel", heel_colour(style))] {
        let relief = if ground.light() < 0.3 {
            ground.lighter(0.2)
        } else {
            ground.darker(0.26)
        };
        // A raised line has a lit edge above and a shadow below.
        let _ = write!(
            out,
            "<pattern id=\"{id}\" width=\"{width}\" height=\"{height}\" patternUnits=\"userSpaceOnUse\"><g fill=\"none\" stroke-width=\"{thick}\" stroke-linecap=\"round\" stroke-linejoin=\"round\">\
             <path d=\"{lines}\" stroke=\"{}\" transform=\"translate(0 4)\"/><path d=\"{lines}\" stroke=\"{relief}\"/>\
             <path d=\"{lines}\" stroke=\"#fff\" stroke-width=\"2\" opacity=\".25\" transform=\"translate(0 -3)\"/></g></pattern>",
            ground.darker(0.5),
        );
    }
    let _ = write!(
        out,
        "<linearGradient id=\"arch\"><stop stop-color=\"{}\"/><stop offset=\"1\" stop-color=\"{}\"/></linearGradient>",
        accent.lighter(0.15),
        accent.darker(0.2)
    );
    out
}

fn heel_colour(style: &Style) -> Rgb {
    match style.wall {
        Wall::Wedge | Wall::Windows => style.palette.accent,
        Wall::Foxed | Wall::Lugs | Wall::Stacked => style.palette.outsole,
    }
}

/// The underside, its toe up.
pub(super) fn sole(style: &Style, last: &Last, camera: &Camera) -> String {
    let Palette {
        outsole,
        midsole,
        accent,
        ..
    } = style.palette;
    let at = |a: f32, inset: f32| camera.spot(last.underside(a, inset));
    let around = |from: f32, to: f32, inset: f32, count: usize| -> Vec<Spot> {
        (0..=count)
            .map(|step| at(lerp(from, to, step as f32 / count as f32), inset))
            .collect()
    };
    let whole = |inset: f32| {
        let mut pen = Pen::default();
        pen.shape(around(0.0, AROUND, inset, 70));
        pen.data()
    };
    // A part of the underside, cut across by a curve that bends by so many units.
    let part = |from: f32, to: f32, inset: f32, bend: f32| {
        let mut spots = around(from, to, inset, ((to - from) * 5.0) as usize);
        if let (Some(first), Some(last)) = (spots.first().copied(), spots.last().copied()) {
            spots.extend((1..8).map(|step| {
                let share = step as f32 / 8.0;
                let arch = bend * (share * std::f32::consts::PI).sin();
                [
                    lerp(last[0], first[0], share),
                    lerp(last[1], first[1], share) + arch,
                ]
            }));
        }
        let mut pen = Pen::default();
        pen.shape(spots);
        pen.data()
    };
    let mut out = format!(
        "<path d=\"{}\" fill=\"{}\"/><path d=\"{}\" fill=\"{outsole}\"/>",
        whole(-0.12),
        midsole.darker(0.12),
        whole(0.22),
    );
    let groove = outsole.darker(0.45);
    let dressed = matches!(style.kind, Kind::Loafer | Kind::Boot);
    let heel = heel_colour(style);
    let (fore, back) = (part(3.7, 10.3, 0.75, -34.0), part(-2.45, 2.45, 0.75, 30.0));
    let _ = write!(
        out,
        "<g stroke=\"{groove}\" stroke-width=\"5\"><path d=\"{fore}\" fill=\"{outsole}\"/><path d=\"{back}\" fill=\"{heel}\"/></g>\
         <path d=\"{fore}\" fill=\"url(#tread)\"/><path d=\"{back}\" fill=\"url(#heel)\"/>",
    );
    if dressed {
        let stitched = whole(0.5);
        let _ = write!(
            out,
            "<path d=\"{stitched}\" fill=\"none\" stroke=\"{}\" stroke-width=\"4\" stroke-dasharray=\"14 9\" opacity=\".8\"/>",
            outsole.lighter(0.4)
        );
    } else {
        // The point that a foot turns on, and the bridge under the arch.
        let centre = camera.spot([18.6, 0.0, 0.3]);
        let unit = camera.scale();
        let [x, y] = centre.map(f32::round);
        let _ = write!(
            out,
            "<g fill=\"none\" stroke=\"{}\" stroke-width=\"{:.0}\"><circle cx=\"{x}\" cy=\"{y}\" r=\"{:.0}\" fill=\"{outsole}\"/><circle cx=\"{x}\" cy=\"{y}\" r=\"{:.0}\"/></g><circle cx=\"{x}\" cy=\"{y}\" r=\"{:.0}\" fill=\"{accent}\"/>",
            outsole.mix(accent, 0.55),
            unit * 0.22,
            unit * 1.75,
            unit * 1.15,
            unit * 0.5
        );
        let bridge = bridge(last, camera);
        let _ = write!(
            out,
            "<path d=\"{bridge}\" fill=\"url(#arch)\" stroke=\"{groove}\" stroke-width=\"5\"/>"
        );
    }
    let _ = write!(out, "<path d=\"{}\" fill=\"url(#across)\"/>", whole(-0.12));
    out
}

/// A slim plate along the arch.
fn bridge(last: &Last, camera: &Camera) -> String {
    let edge = |step: usize, side: f32| {
        let share = step as f32 / 12.0;
        let a = lerp(2.75, 3.45, share);
        let [x, y, outer] = last.underside(a, 0.9);
        let [_, _, inner] = last.underside(AROUND - a, 0.9);
        let half = 0.14 + 0.2 * (2.0 * share - 1.0).powi(2);
        let middle = lerp(inner, outer, 0.5);
        camera.spot([x, y, middle + side * half * (outer - inner)])
    };
    let mut pen = Pen::default();
    pen.shape(
        (0..=12)
            .map(|step| edge(step, 1.0))
            .chain((0..=12).rev().map(|step| edge(step, -1.0))),
    );
    pen.data()
}

/// The shadow of a shoe that lies on its upper.
pub(super) fn sole_shadow(last: &Last, camera: &Camera) -> String {
    let mut pen = Pen::default();
    pen.shape((0..42).map(|step| {
        let [x, y] = camera.spot(last.underside(AROUND * step as f32 / 42.0, -0.2));
        [x + 16.0, y + 26.0]
    }));
    format!(
        "<path d=\"{}\" filter=\"url(#mist)\" opacity=\".45\"/>",
        pen.data()
    )
}

/// The edge of the piece that lies on top, from one side of the picture to the other.
const EDGE: &str = "M-60 800C250 560 560 900 920 730S1380 330 1680 380";
/// The lace's way over the picture.
const LACE: &str = "M-120 560C330 330 700 640 1180 255";

/// The material from near by: the upper, a piece sewn onto it, and what crosses them.
pub(super) fn detail(style: &Style) -> String {
    let Palette {
        upper,
        overlay,
        accent,
        lace,
        ..
    } = style.palette;
    let thread = |over: Rgb| {
        if over.light() > 0.55 {
            over.darker(0.35)
        } else {
            over.lighter(0.55)
        }
    };
    let mut out = format!(
        "<defs><filter id=\"mist\" x=\"-20%\" y=\"-30%\" width=\"140%\" height=\"160%\"><feGaussianBlur stdDeviation=\"16\"/></filter>{}{}\
         <linearGradient id=\"light\" x1=\"0\" y1=\"0\" x2=\"1\" y2=\"1\"><stop stop-color=\"#fff\" stop-opacity=\".26\"/><stop offset=\".5\" stop-color=\"#fff\" stop-opacity=\"0\"/>\
         <stop offset=\"1\" stop-color=\"#000\" stop-opacity=\".34\"/></linearGradient>\
         <radialGradient id=\"ring\" cx=\".38\" cy=\".3\"><stop stop-color=\"#fffdf6\"/><stop offset=\".5\" stop-color=\"#b9b4aa\"/><stop offset=\"1\" stop-color=\"#5e5a54\"/></radialGradient></defs>",
        weave(style),
        grain("skin", overlay, 0.09, 1.5),
    );
    let _ = write!(
        out,
        "<rect width=\"1600\" height=\"1200\" fill=\"{upper}\"/>"
    );
    out.push_str(match style.texture {
        Texture::Mesh | Texture::Knit => {
            "<rect width=\"1600\" height=\"1200\" fill=\"url(#weave)\"/>"
        }
        Texture::Leather | Texture::Suede => {
            "<rect width=\"1600\" height=\"1200\" filter=\"url(#weave)\"/>"
        }
    });
    // What is sewn on: its shadow, itself, its cut edge, and two seams.
    let _ = write!(
        out,
        "<path d=\"{EDGE}V1300H-60z\" filter=\"url(#mist)\" opacity=\".6\" transform=\"translate(4 -10)\"/>\
         <clipPath id=\"piece\"><path d=\"{EDGE}V1300H-60z\"/></clipPath><g clip-path=\"url(#piece)\"><rect width=\"1600\" height=\"1200\" filter=\"url(#skin)\"/>\
         <path d=\"{EDGE}\" fill=\"none\" stroke=\"{}\" stroke-width=\"26\"/><path d=\"{EDGE}\" fill=\"none\" stroke=\"{}\" stroke-width=\"9\"/></g>",
        overlay.darker(0.22),
        overlay.lighter(0.35),
    );
    let sewn = thread(overlay);
    for down in [52, 92] {
        let _ = write!(
            out,
            "<g fill=\"none\" stroke-linecap=\"round\" stroke-dasharray=\"34 19\" transform=\"translate(0 {down})\"><path d=\"{EDGE}\" stroke=\"#000\" stroke-width=\"15\" opacity=\".38\" transform=\"translate(2 5)\"/>\
             <path d=\"{EDGE}\" stroke=\"{sewn}\" stroke-width=\"11\"/><path d=\"{EDGE}\" stroke=\"#fff\" stroke-width=\"3\" opacity=\".45\" transform=\"translate(0 -2)\"/></g>",
        );
    }
    match style.kind {
        Kind::Runner | Kind::Court | Kind::HighTop => {
            let _ = write!(
                out,
                "<g fill=\"none\" stroke-linecap=\"round\"><path d=\"{LACE}\" stroke=\"#000\" stroke-width=\"124\" opacity=\".5\" filter=\"url(#mist)\" transform=\"translate(10 26)\"/>\
                 <path d=\"{LACE}\" stroke=\"{}\" stroke-width=\"116\"/><path d=\"{LACE}\" stroke=\"{lace}\" stroke-width=\"98\"/>\
                 <g stroke-linecap=\"butt\"><path d=\"{LACE}\" stroke=\"#000\" stroke-width=\"104\" stroke-dasharray=\"5 11\" opacity=\".1\"/>\
                 <path d=\"{LACE}\" stroke=\"{accent}\" stroke-width=\"20\" stroke-dasharray=\"11 9\"/><path d=\"{LACE}\" stroke=\"#fff\" stroke-width=\"30\" opacity=\".28\" transform=\"translate(-4 -26)\"/></g></g>",
                lace.darker(0.28),
            );
            out.push_str(
                "<circle cx=\"1180\" cy=\"255\" r=\"124\" filter=\"url(#mist)\" opacity=\".45\"/>\
                 <circle cx=\"1180\" cy=\"255\" r=\"118\" fill=\"url(#ring)\"/><circle cx=\"1180\" cy=\"255\" r=\"72\" fill=\"#14110f\"/>\
                 <circle cx=\"1180\" cy=\"255\" r=\"95\" fill=\"none\" stroke=\"#fff\" stroke-width=\"4\" opacity=\".35\"/>",
            );
        }
        Kind::Loafer | Kind::Boot => {
            // The raised seam of a moccasin.
            let _ = write!(
                out,
                "<g fill=\"none\"><path d=\"{LACE}\" stroke=\"#000\" stroke-width=\"80\" opacity=\".45\" filter=\"url(#mist)\" transform=\"translate(6 20) scale(1.45 .8)\"/>\
                 <g transform=\"scale(1.45 .8)\"><path d=\"{LACE}\" stroke=\"{}\" stroke-width=\"66\"/><path d=\"{LACE}\" stroke=\"{}\" stroke-width=\"54\"/>\
                 <path d=\"{LACE}\" stroke=\"#fff\" stroke-width=\"14\" opacity=\".22\" transform=\"translate(0 -15)\"/>\
                 <path d=\"{LACE}\" stroke=\"#000\" stroke-width=\"66\" stroke-dasharray=\"4 30\" opacity=\".35\"/><path d=\"{LACE}\" stroke=\"{}\" stroke-width=\"58\" stroke-dasharray=\"7 27\" stroke-dashoffset=\"-14\"/></g></g>",
                upper.darker(0.3),
                upper.lighter(0.06),
                thread(upper),
            );
        }
    }
    out.push_str("<rect width=\"1600\" height=\"1200\" fill=\"url(#light)\"/>");
    out
}

/// The upper's own material, as a pattern, or for what has grain, as a filter.
fn weave(style: &Style) -> String {
    let upper = style.palette.upper;
    let (dark, light) = (upper.darker(0.42), upper.lighter(0.28));
    match style.texture {
        Texture::Mesh => format!(
            "<pattern id=\"weave\" width=\"64\" height=\"56\" patternUnits=\"userSpaceOnUse\"><g fill=\"{dark}\"><ellipse cx=\"16\" cy=\"14\" rx=\"13\" ry=\"10\"/><ellipse cx=\"48\" cy=\"42\" rx=\"13\" ry=\"10\"/></g>\
             <g fill=\"none\" stroke=\"{light}\" stroke-width=\"4\" stroke-linecap=\"round\"><path d=\"M5 20a14 11 0 0 0 22 0M37 48a14 11 0 0 0 22 0\"/><path d=\"M40 8q8 8 16 0M8 36q8 8 16 0\" opacity=\".6\"/></g></pattern>"
        ),
        Texture::Knit => format!(
            "<pattern id=\"weave\" width=\"48\" height=\"40\" patternUnits=\"userSpaceOnUse\"><g fill=\"none\" stroke-width=\"15\" stroke-linecap=\"round\"><path d=\"M5-6 24 14M43-6 24 14M5 34 24 54M43 34 24 54\" stroke=\"{dark}\" transform=\"translate(0 4)\"/>\
             <path d=\"M5-6 22 12M43-6 26 12M5 34 22 52M43 34 26 52\" stroke=\"{upper}\"/><path d=\"M5-9 19 6M43-9 29 6M5 31 19 46M43 31 29 46\" stroke=\"{light}\" stroke-width=\"4\" opacity=\".75\"/></g></pattern>"
        ),
        Texture::Leather => grain("weave", upper, 0.06, 2.0),
        Texture::Suede => grain("weave", upper, 0.22, 2.2),
    }
}

/// A filter that fills its element with a grained surface of one colour.
fn grain(id: &str, colour: Rgb, frequency: f32, depth: f32) -> String {
    format!(
        "<filter id=\"{id}\" x=\"0\" y=\"0\" width=\"100%\" height=\"100%\" color-interpolation-filters=\"sRGB\"><feTurbulence type=\"fractalNoise\" baseFrequency=\"{frequency}\" numOctaves=\"3\" seed=\"7\"/>\
         <feDiffuseLighting surfaceScale=\"{depth}\" diffuseConstant=\"1.15\" lighting-color=\"#fff\" result=\"lit\"><feDistantLight azimuth=\"235\" elevation=\"62\"/></feDiffuseLighting>\
         <feFlood flood-color=\"{colour}\"/><feComposite in2=\"lit\" operator=\"arithmetic\" k1=\"1\"/></filter>"
    )
}
