//! What lies on the upper: its material, the pieces that are sewn onto it, and the mark on its sides. Called by `body`.

use super::easel::{Easel, steps};
use super::last::{AROUND, from_heel, lerp, smooth};
use super::style::{Kind, Mark, Palette, Rgb, Texture};

/// Which edge of an overlay is seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    Lower,
    Upper,
}

impl Easel<'_> {
    /// What the upper is made of, as lines over all of it.
    pub fn texture(&mut self) {
        let Palette { upper, .. } = self.palette;
        let dark = upper.light() > 0.3;
        let colour = if dark {
            upper.darker(0.35)
        } else {
            upper.lighter(0.3)
        };
        let (dashes, width, opacity) = match self.style.texture {
            Texture::Mesh => (
                format!(
                    " stroke-dasharray=\"0 {}\" stroke-linecap=\"round\"",
                    self.wide(0.42)
                ),
                self.wide(0.16),
                0.5,
            ),
            Texture::Knit => (
                format!(
                    " stroke-dasharray=\"{} {}\"",
                    self.wide(0.3),
                    self.wide(0.12)
                ),
                self.wide(0.08),
                0.45,
            ),
            Texture::Leather | Texture::Suede => return,
        };
        let mut all = String::new();
        for line in 1..8 {
            let v = line as f32 * 0.115;
            all.push_str(&self.on_skin(steps(3.2, AROUND - 3.2, 18).map(|a| (a, v))));
        }
        self.stroke(
            &all,
            colour,
            width,
            &format!("{dashes} opacity=\"{opacity}\""),
        );
    }

    /// A piece on top of the upper, with its seen edge sewn on.
    fn overlay(
        &mut self,
        (from, to): (f32, f32),
        low: &dyn Fn(f32) -> f32,
        high: &dyn Fn(f32) -> f32,
        edge: Edge,
        colour: Rgb,
    ) {
        let columns = ((to - from) * 3.5).ceil() as usize;
        let piece = self.strip(&|a, v| self.skin(a, v), (from, to), [columns, 3], low, high);
        let sewn = |inset: f32| {
            steps(from, to, columns).map(move |a| match edge {
                Edge::Upper => (a, high(a) - inset),
                Edge::Lower => (a, low(a) + inset),
            })
        };
        let (border, stitched) = (self.on_skin(sewn(0.0)), self.on_skin(sewn(0.03)));
        let width = self.wide(0.09);
        self.fill(
            &piece,
            &colour.to_string(),
            &format!(" stroke=\"{colour}\" stroke-width=\"2\" stroke-linejoin=\"round\""),
        );
        self.stroke(
            &border,
            Rgb::BLACK,
            width,
            " opacity=\".3\" stroke-linecap=\"round\"",
        );
        self.stitches(&stitched, colour);
    }

    pub fn overlays(&mut self) {
        let Palette {
            overlay,
            accent,
            lining,
            upper,
            midsole,
            ..
        } = self.palette;
        let pads = |a: f32| 0.9 - 0.05 * smooth(from_heel(a) / 3.0);
        let hump = |a: f32, at: f32, half: f32| {
            let t = ((a - at) / half).clamp(-1.0, 1.0);
            (1.0 - t * t).max(0.0)
        };
        match self.style.kind {
            Kind::Runner | Kind::Court => {
                self.marks();
                let toe = if self.style.kind == Kind::Runner {
                    overlay
                } else {
                    upper.mix(overlay, 0.5)
                };
                self.overlay(
                    (3.4, 10.6),
                    &|_| 0.0,
                    &|a| 0.07 + 0.36 * hump(a, 7.0, 3.6).powi(2),
                    Edge::Upper,
                    toe,
                );
                self.overlay(
                    (-2.3, 2.3),
                    &|_| 0.0,
                    &|a| 0.08 + 0.56 * hump(a, 0.0, 2.3),
                    Edge::Upper,
                    overlay,
                );
                self.overlay(
                    (3.75, 10.25),
                    &|a| 0.8 + 0.03 * hump(a, 7.0, 1.0),
                    &|_| 1.0,
                    Edge::Lower,
                    overlay,
                );
                self.overlay((-3.7, 3.7), &pads, &|_| 1.0, Edge::Lower, lining);
                self.overlay((-0.55, 0.55), &|_| 0.62, &|_| 1.03, Edge::Lower, accent);
                if self.style.kind == Kind::Court {
                    self.holes((5.9, 8.1), (0.56, 0.74));
                }
            }
            Kind::HighTop => {
                self.marks();
                self.overlay(
                    (4.6, 9.4),
                    &|_| 0.0,
                    &|a| 0.05 + 0.4 * hump(a, 7.0, 2.4),
                    Edge::Upper,
                    midsole.darker(0.03),
                );
                self.overlay(
                    (-1.7, 1.7),
                    &|_| 0.0,
                    &|a| 0.1 + 0.36 * hump(a, 0.0, 1.7),
                    Edge::Upper,
                    overlay,
                );
                self.overlay(
                    (3.8, 10.2),
                    &|a| 0.82 + 0.03 * hump(a, 7.0, 1.0),
                    &|_| 1.0,
                    Edge::Lower,
                    overlay,
                );
                self.overlay(
                    (-3.8, 3.8),
                    &|a| pads(a) + 0.03,
                    &|_| 1.0,
                    Edge::Lower,
                    lining,
                );
                self.overlay((-0.45, 0.45), &|_| 0.4, &|_| 1.02, Edge::Lower, accent);
            }
            Kind::Loafer => {
                let apron = |a: f32| 0.48 - 0.06 * hump(a, 7.0, 2.5);
                self.overlay(
                    (3.6, 10.4),
                    &apron,
                    &|_| 1.0,
                    Edge::Lower,
                    upper.lighter(0.04),
                );
                let gathered = self.on_skin(steps(3.9, 10.1, 36).map(|a| (a, apron(a) - 0.02)));
                let (width, dash, gap) = (self.wide(0.42), self.wide(0.09), self.wide(0.26));
                self.stroke(
                    &gathered,
                    upper.darker(0.45),
                    width,
                    &format!(" stroke-dasharray=\"{dash} {gap}\" opacity=\".55\""),
                );
                self.overlay(
                    (3.2, 10.8),
                    &|a| 0.66 - 0.03 * hump(a, 7.0, 1.5),
                    &|a| 0.93 - 0.02 * hump(a, 7.0, 1.0),
                    Edge::Lower,
                    overlay,
                );
                let slit = self.strip(
                    &|a, v| self.skin(a, v),
                    (6.2, 7.8),
                    [8, 1],
                    &|a| 0.79 - 0.045 * hump(a, 7.0, 0.8),
                    &|a| 0.79 + 0.045 * hump(a, 7.0, 0.8),
                );
                self.fill(&slit, &overlay.darker(0.65).to_string(), "");
                self.overlay(
                    (-1.3, 1.3),
                    &|_| 0.0,
                    &|a| 0.12 + 0.7 * hump(a, 0.0, 1.3),
                    Edge::Upper,
                    overlay,
                );
            }
            Kind::Boot => {
                for side in [2.75, AROUND - 2.75] {
                    let half = 0.72;
                    self.overlay(
                        (side - half, side + half),
                        &|a| 0.93 - 0.52 * hump(a, side, half).sqrt(),
                        &|_| 0.985,
                        Edge::Lower,
                        lining.darker(0.25),
                    );
                    let mut ribs = String::new();
                    for rib in steps(-0.8, 0.8, 8) {
                        let a = side + rib * half;
                        let low = 0.95 - 0.52 * hump(a, side, half).sqrt();
                        ribs.push_str(&self.on_skin(steps(low, 0.97, 6).map(|v| (a, v))));
                    }
                    let width = self.wide(0.07);
                    self.stroke(&ribs, lining.lighter(0.2), width, " opacity=\".6\"");
                    let ahead = if side < 7.0 { 1.0 } else { -1.0 };
                    let vamp = self.on_skin(
                        steps(0.0, 1.0, 12)
                            .map(|s| (side + ahead * lerp(0.9, 0.55, s * s), lerp(0.02, 0.6, s))),
                    );
                    self.stitches(&vamp, upper);
                }
                self.overlay((-0.5, 0.5), &|_| 0.88, &|_| 1.0, Edge::Lower, accent);
                if self.style.texture == Texture::Leather {
                    let cap = self
                        .on_skin(steps(4.9, 9.1, 20).map(|a| (a, 0.05 + 0.3 * hump(a, 7.0, 2.1))));
                    self.stitches(&cap, upper);
                }
            }
        }
    }

    /// The mark on both sides.
    fn marks(&mut self) {
        let Palette { accent, .. } = self.palette;
        for inner in [false, true] {
            let mirror = move |a: f32| if inner { AROUND - a } else { a };
            let skin = |a: f32, v: f32| self.skin(mirror(a), v);
            // Mirrored, the strip is run through from behind, which keeps its outer side outside.
            let order = |from: f32, to: f32| {
                if inner {
                    (AROUND - to, AROUND - from)
                } else {
                    (from, to)
                }
            };
            let mut data = String::new();
            match self.style.mark {
                Mark::Wave => {
                    let (from, to) = (1.3, 4.75);
                    let middle =
                        move |a: f32| 0.2 + 0.5 * smooth((a - from) / (to - from)).powf(1.3);
                    let half = move |a: f32| {
                        0.115
                            * (std::f32::consts::PI * ((a - from) / (to - from)).clamp(0.0, 1.0))
                                .sin()
                                .max(0.0)
                                .powf(0.7)
                    };
                    data = self.strip(
                        &|a, v| self.skin(a, v),
                        order(from, to),
                        [18, 2],
                        &|a| middle(mirror(a)) - half(mirror(a)),
                        &|a| middle(mirror(a)) + half(mirror(a)),
                    );
                }
                Mark::Bars => {
                    for bar in 0..3 {
                        let from = 2.55 + 0.46 * bar as f32;
                        data.push_str(&self.patch(
                            &skin,
                            inner,
                            &[
                                [from, 0.03],
                                [from + 0.25, 0.03],
                                [from + 0.5, 0.78],
                                [from + 0.28, 0.78],
                            ],
                        ));
                    }
                }
                Mark::Chevrons => {
                    for at in [2.5, 3.1] {
                        data.push_str(&self.patch(
                            &skin,
                            inner,
                            &[
                                [at, 0.12],
                                [at + 0.28, 0.12],
                                [at + 0.72, 0.44],
                                [at + 0.3, 0.76],
                                [at + 0.04, 0.76],
                                [at + 0.42, 0.44],
                            ],
                        ));
                    }
                }
                Mark::Disc => {
                    let (at, wide, high) = if self.style.kind == Kind::HighTop {
                        (2.45, 0.36, 0.13)
                    } else {
                        (3.1, 0.42, 0.2)
                    };
                    let ring: Vec<[f32; 2]> = steps(0.0, std::f32::consts::TAU, 24)
                        .map(|t| [at + wide * t.cos(), 0.58 + high * t.sin()])
                        .collect();
                    data = self.patch(&skin, inner, &ring);
                }
            }
            let edge = self.wide(0.07);
            self.fill(
                &data,
                &accent.to_string(),
                &format!(
                    " stroke=\"{}\" stroke-width=\"{edge}\" stroke-linejoin=\"round\"",
                    accent.darker(0.3)
                ),
            );
            if self.style.mark == Mark::Disc {
                let (at, wide, high) = if self.style.kind == Kind::HighTop {
                    (2.45, 0.28, 0.1)
                } else {
                    (3.1, 0.33, 0.155)
                };
                let ring = self.on_skin(
                    steps(0.0, std::f32::consts::TAU, 24)
                        .map(|t| (mirror(at + wide * t.cos()), 0.58 + high * t.sin())),
                );
                self.stitches(&ring, accent);
            }
        }
    }

    /// Air holes in the vamp.
    fn holes(&mut self, (from, to): (f32, f32), (low, high): (f32, f32)) {
        let mut all = String::new();
        for v in steps(low, high, 3) {
            all.push_str(&self.on_skin(steps(from, to, 10).map(|a| (a, v))));
        }
        let (width, gap) = (self.wide(0.2), self.wide(0.5));
        self.stroke(
            &all,
            Rgb::BLACK,
            width,
            &format!(" stroke-dasharray=\"0 {gap}\" stroke-linecap=\"round\" opacity=\".5\""),
        );
    }
}
