//! The side of the sole: the tread below, the midsole above it, and what goes around it. Called by `body`.

use super::easel::Easel;
use super::last::{AROUND, from_heel, smooth};
use super::style::{Palette, Rgb, Wall};

impl Easel<'_> {
    pub fn sole(&mut self) {
        let Palette {
            midsole,
            outsole,
            accent,
            ..
        } = self.palette;
        // The breast of a heel is steep.
        let fine = if self.style.wall == Wall::Stacked {
            84
        } else {
            56
        };
        let (last, camera) = (self.last, self.camera);
        let wall = |a: f32, w: f32| camera.spot(last.wall(a, 1.0 - w));
        let begin = self.hidden(&wall);
        let all = (begin, begin + AROUND);
        // In these strips 0 is the ground and 1 the top.
        let tread = 0.2;
        let lower = self.strip(&wall, all, [fine, 1], &|_| 0.0, &|_| tread + 0.01);
        let upper = self.strip(&wall, all, [fine, 2], &|_| tread, &|_| 1.0);
        self.fill(
            &lower,
            &outsole.to_string(),
            &format!(" stroke=\"{outsole}\" stroke-width=\"2\""),
        );
        self.fill(&upper, "url(#mid)", "");
        match self.style.wall {
            Wall::Stacked => {
                for w in [0.42, 0.58] {
                    let layer = self.on_wall(w, all);
                    let width = self.wide(0.05);
                    self.stroke(&layer, Rgb::BLACK, width, " opacity=\".3\"");
                }
                let welt = self.on_wall(0.06, all);
                self.stitches(&welt, midsole);
            }
            Wall::Foxed => {
                let band = self.strip(&wall, all, [fine, 1], &|_| 0.56, &|_| 0.68);
                self.fill(&band, &accent.to_string(), "");
                let groove = self.on_wall(0.16, all);
                let width = self.wide(0.05);
                self.stroke(&groove, Rgb::BLACK, width, " opacity=\".22\"");
            }
            Wall::Wedge => {
                let half = |a: f32| smooth((3.6 - from_heel(a)) / 2.6);
                let wedge = self.strip(
                    &wall,
                    (-3.6, 3.6),
                    [44, 1],
                    &|a| 0.5 - 0.2 * half(a),
                    &|a| 0.5 + 0.28 * half(a),
                );
                self.fill(&wedge, &accent.to_string(), "");
                let groove = self.on_wall(0.5, (3.4, 10.6));
                let width = self.wide(0.1);
                self.stroke(
                    &groove,
                    Rgb::BLACK,
                    width,
                    " opacity=\".18\" stroke-linecap=\"round\"",
                );
            }
            Wall::Windows => {
                for window in 0..6 {
                    let (side, place) = (window / 3, window % 3);
                    let from = 0.75 + 0.68 * place as f32;
                    let (from, to) = if side == 0 {
                        (from, from + 0.52)
                    } else {
                        (AROUND - from - 0.52, AROUND - from)
                    };
                    let pane = self.strip(&wall, (from, to), [6, 1], &|_| 0.38, &|_| 0.74);
                    let width = self.wide(0.14);
                    self.fill(
                        &pane,
                        &accent.darker(0.18).to_string(),
                        &format!(
                            " stroke=\"{}\" stroke-width=\"{width}\" stroke-linejoin=\"round\"",
                            accent.lighter(0.2)
                        ),
                    );
                }
                let groove = self.on_wall(0.45, (3.2, 10.8));
                let width = self.wide(0.1);
                self.stroke(&groove, Rgb::BLACK, width, " opacity=\".18\"");
            }
            Wall::Lugs => {
                let band = self.strip(&wall, all, [fine, 1], &|_| 0.86, &|_| 1.0);
                self.fill(&band, &accent.to_string(), "");
                let teeth = self.on_wall(0.72, all);
                let (width, dash, gap) = (self.wide(0.5), self.wide(0.55), self.wide(0.5));
                self.stroke(
                    &teeth,
                    outsole,
                    width,
                    &format!(" stroke-dasharray=\"{dash} {gap}\""),
                );
            }
        }
        // The ground takes the light from below, and the upper's edge catches it above.
        let foot = self.on_wall(0.97, all);
        let lip = self.on_wall(0.03, all);
        let (deep, thin) = (self.wide(0.3), self.wide(0.07));
        self.stroke(&foot, Rgb::BLACK, deep, " opacity=\".22\"");
        self.stroke(&lip, Rgb::WHITE, thin, " opacity=\".5\"");
    }
}
