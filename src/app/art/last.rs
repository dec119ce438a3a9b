//! The form that a shoe is built on, in centimetres: x from the heel to the toe, y up, z to the outer side.
//!
//! Around the shoe runs `a`, in knots: 0 at the back of the heel, 7 at the tip of the toe, by the outer side; 14 is 0 again.
//! On the upper `v` goes from the sole (0) to the edge of the opening (1); on the sole's side `w` from its top (0) to the
//! ground (1). Seams, overlays and laces are said in these, and so they lie on the shoe from wherever it is looked at.

use super::style::{Kind, Style};

/// How many knots there are around a shoe.
pub(super) const KNOTS: usize = 14;
/// The same as a length of `a`.
pub(super) const AROUND: f32 = KNOTS as f32;
/// Where the foot bends.
const BALL: f32 = 19.0;

pub(super) type Point = [f32; 3];

/// A form.
pub(super) struct Last {
    /// The edge of the sole under the upper: x, z.
    foot: [[f32; 2]; KNOTS],
    /// The edge of the opening: down the sides, and along the laces to its front.
    rim: [Point; KNOTS],
    /// How the upper rises from the sole to the rim, as the inner points of a cubic curve (how far in, how far up): at the
    /// toe and along the sides.
    toe: [f32; 4],
    side: [f32; 4],
    /// From how many knots before the heel the toe's curve takes over, and within how many.
    turn: [f32; 2],
    /// x and the height of the sole's top and of its underside.
    top: &'static [(f32, f32)],
    ground: &'static [(f32, f32)],
    /// How far the sole stands out.
    flare: f32,
    /// Along the tongue: x, y, half its width; none for shoes that have no laces.
    tongue: Option<[[f32; 3]; 4]>,
    stretch: [f32; 2],
    /// How far the heel is lifted, in radians.
    flex: f32,
}

const FOOT: [[f32; 2]; KNOTS] = [
    [0.0, 0.0],
    [1.2, 2.5],
    [5.0, 3.35],
    [11.0, 3.5],
    [18.0, 4.6],
    [23.6, 4.15],
    [27.1, 2.1],
    [28.3, -0.5],
    [27.0, -2.8],
    [22.8, -4.25],
    [18.2, -4.3],
    [11.0, -2.95],
    [5.0, -3.1],
    [1.2, -2.5],
];
/// A dress shoe is narrower, and its toe longer.
const SLIM: [[f32; 2]; KNOTS] = [
    [0.0, 0.0],
    [1.1, 2.3],
    [5.0, 3.1],
    [11.0, 3.1],
    [18.0, 4.2],
    [24.0, 3.6],
    [27.8, 1.7],
    [28.9, -0.4],
    [27.6, -2.4],
    [23.4, -3.8],
    [18.2, -4.0],
    [11.0, -2.6],
    [5.0, -2.9],
    [1.1, -2.3],
];

impl Last {
    pub fn of(style: &Style) -> Last {
        let (stretch, flex) = (style.stretch, 0.0);
        match style.kind {
            Kind::Runner => Last {
                foot: FOOT,
                rim: mirrored([
                    [0.5, 10.4, 0.0],
                    [1.5, 9.7, 1.7],
                    [4.6, 7.9, 2.5],
                    [8.2, 8.3, 2.4],
                    [11.0, 9.7, 1.7],
                    [14.4, 8.1, 1.25],
                    [17.0, 6.9, 0.8],
                    [18.1, 6.35, 0.0],
                ]),
                toe: [-0.05, 0.62, 0.4, 0.72],
                side: [-0.12, 0.42, 0.25, 0.86],
                turn: [3.0, 2.6],
                top: &[
                    (0.0, 3.9),
                    (6.0, 3.5),
                    (12.0, 2.9),
                    (18.0, 2.4),
                    (24.0, 2.45),
                    (28.3, 3.1),
                ],
                ground: &[
                    (-0.6, 1.0),
                    (1.2, 0.25),
                    (3.0, 0.0),
                    (17.0, 0.0),
                    (22.0, 0.3),
                    (28.3, 1.7),
                ],
                flare: 0.55,
                tongue: Some([
                    [18.3, 6.1, 0.7],
                    [15.2, 7.9, 1.15],
                    [12.3, 9.7, 1.5],
                    [9.9, 11.9, 1.9],
                ]),
                stretch,
                flex,
            },
            Kind::Court => Last {
                foot: FOOT,
                rim: mirrored([
                    [0.9, 9.3, 0.0],
                    [1.7, 9.0, 1.7],
                    [4.6, 7.6, 2.5],
                    [8.2, 8.0, 2.4],
                    [10.9, 9.3, 1.75],
                    [14.3, 7.8, 1.3],
                    [17.2, 6.5, 0.85],
                    [18.3, 6.0, 0.0],
                ]),
                toe: [-0.05, 0.64, 0.4, 0.74],
                side: [-0.1, 0.42, 0.25, 0.86],
                turn: [3.0, 2.6],
                top: &[(0.0, 3.1), (10.0, 2.8), (20.0, 2.5), (28.3, 2.9)],
                ground: &[(0.0, 0.25), (1.5, 0.0), (20.0, 0.0), (28.3, 0.8)],
                flare: 0.3,
                tongue: Some([
                    [18.4, 5.8, 0.75],
                    [15.2, 7.5, 1.2],
                    [12.2, 9.3, 1.6],
                    [9.8, 11.3, 2.0],
                ]),
                stretch,
                flex,
            },
            Kind::HighTop => Last {
                foot: FOOT,
                rim: mirrored([
                    [0.9, 14.6, 0.0],
                    [1.7, 14.5, 1.8],
                    [4.4, 13.6, 2.7],
                    [7.8, 14.1, 2.6],
                    [10.3, 14.9, 1.8],
                    [14.6, 9.2, 1.3],
                    [17.3, 6.9, 0.85],
                    [18.5, 6.2, 0.0],
                ]),
                toe: [-0.05, 0.64, 0.46, 0.64],
                side: [-0.1, 0.36, 0.5, 0.66],
                turn: [3.0, 2.4],
                top: &[(0.0, 3.2), (10.0, 2.9), (20.0, 2.6), (28.3, 3.0)],
                ground: &[(0.0, 0.25), (1.5, 0.0), (20.0, 0.0), (28.3, 0.8)],
                flare: 0.3,
                tongue: Some([
                    [18.6, 6.0, 0.75],
                    [15.0, 8.6, 1.15],
                    [12.3, 11.6, 1.5],
                    [9.6, 16.6, 2.0],
                ]),
                stretch,
                flex,
            },
            Kind::Boot => Last {
                foot: SLIM,
                rim: mirrored([
                    [0.9, 16.6, 0.0],
                    [1.6, 16.5, 1.9],
                    [3.8, 16.4, 2.9],
                    [6.4, 16.6, 3.0],
                    [8.8, 16.9, 2.5],
                    [10.1, 17.1, 1.6],
                    [10.7, 17.2, 0.8],
                    [10.9, 17.2, 0.0],
                ]),
                toe: [-0.04, 0.36, 0.94, 0.2],
                side: [-0.06, 0.3, 0.6, 0.5],
                turn: [2.2, 2.0],
                top: &[
                    (0.0, 3.5),
                    (7.0, 3.2),
                    (13.0, 2.3),
                    (19.0, 1.6),
                    (24.0, 1.6),
                    (28.9, 2.1),
                ],
                ground: &[
                    (-0.5, 0.2),
                    (0.8, 0.0),
                    (7.2, 0.0),
                    (7.9, 1.6),
                    (12.0, 1.1),
                    (17.0, 0.1),
                    (21.0, 0.05),
                    (28.9, 1.0),
                ],
                flare: 0.3,
                tongue: None,
                stretch,
                flex,
            },
            Kind::Loafer => Last {
                foot: SLIM,
                rim: mirrored([
                    [0.9, 8.1, 0.0],
                    [1.7, 7.7, 1.7],
                    [4.8, 6.6, 2.6],
                    [8.6, 6.3, 2.8],
                    [12.0, 6.8, 2.4],
                    [14.6, 7.6, 1.6],
                    [16.0, 8.0, 0.8],
                    [16.4, 8.1, 0.0],
                ]),
                toe: [-0.04, 0.56, 0.5, 0.64],
                side: [-0.12, 0.42, 0.3, 0.82],
                turn: [2.6, 2.6],
                top: &[
                    (0.0, 2.9),
                    (7.0, 2.6),
                    (13.0, 1.9),
                    (19.0, 1.4),
                    (28.9, 1.8),
                ],
                ground: &[
                    (-0.5, 0.2),
                    (0.8, 0.0),
                    (7.0, 0.0),
                    (7.7, 1.2),
                    (12.0, 0.8),
                    (17.0, 0.1),
                    (21.0, 0.05),
                    (28.9, 0.9),
                ],
                flare: 0.3,
                tongue: None,
                stretch,
                flex,
            },
        }
    }

    /// The same with its heel lifted so far, in radians, as in a step.
    pub fn flexed(self, flex: f32) -> Last {
        Last { flex, ..self }
    }

    pub fn has_tongue(&self) -> bool {
        self.tongue.is_some()
    }

    /// A point of the upper. `v` a little above 1 stands out over the rim.
    pub fn skin(&self, a: f32, v: f32) -> Point {
        let [fx, fz] = around(&self.foot, a);
        let [rx, ry, rz] = around(&self.rim, a);
        let toeness = smooth((from_heel(a) - self.turn[0]) / self.turn[1]);
        let curve = |index: usize| lerp(self.side[index], self.toe[index], toeness);
        let inward = bezier(curve(0), curve(2), v);
        let upward = bezier(curve(1), curve(3), v);
        // The heel is round, so that it holds the foot.
        let heel = 1.0 - smooth(from_heel(a) / 1.8);
        let bulge = 0.55 * heel * (std::f32::consts::PI * v.clamp(0.0, 1.0)).sin();
        let base = level(self.top, fx);
        self.pose([
            lerp(fx, rx, inward) - bulge,
            lerp(base, ry, upward),
            lerp(fz, rz, inward),
        ])
    }

    /// A point of the sole's side.
    pub fn wall(&self, a: f32, w: f32) -> Point {
        let [x, z] = around(&self.foot, a);
        let [nx, nz] = self.outward(a);
        let heel = 1.0 - smooth(from_heel(a) / 2.5);
        let out =
            0.2 + self.flare * (0.5 + 0.5 * heel) * w + 0.12 * (std::f32::consts::PI * w).sin();
        let y = lerp(level(self.top, x) + 0.12, level(self.ground, x), w);
        self.pose([x + nx * out, y, z + nz * out])
    }

    /// A point of the underside, `inset` in from its edge.
    pub fn underside(&self, a: f32, inset: f32) -> Point {
        let [x, z] = around(&self.foot, a);
        let [nx, nz] = self.outward(a);
        let out = 0.2 + self.flare * 0.5 - inset;
        self.pose([x + nx * out, level(self.ground, x), z + nz * out])
    }

    /// A point of the tongue: `s` from its root (0) to its top, `q` across it from -1 to 1.
    pub fn tongue(&self, s: f32, q: f32) -> Option<Point> {
        let line = self.tongue.as_ref()?;
        let along = (s * 3.0).clamp(0.0, 2.999);
        let (index, part) = (along as usize, along.fract());
        let at = |axis: usize| lerp(line[index][axis], line[index + 1][axis], part);
        let arch = 0.55 * (1.0 - q * q);
        Some(self.pose([at(0) + 0.4 * arch, at(1) + 0.85 * arch, q * at(2)]))
    }

    /// The way out of the footprint at `a`: x, z.
    fn outward(&self, a: f32) -> [f32; 2] {
        let [x0, z0] = around(&self.foot, a - 0.08);
        let [x1, z1] = around(&self.foot, a + 0.08);
        let length = (x1 - x0).hypot(z1 - z0).max(1e-6);
        [(z0 - z1) / length, (x1 - x0) / length]
    }

    fn pose(&self, [x, y, z]: Point) -> Point {
        let lifted = self.flex * smooth((BALL + 1.5 - x) / 6.0);
        let (dx, dy) = (x - BALL, y);
        let (sin, cos) = lifted.sin_cos();
        let (x, y) = (BALL + dx * cos + dy * sin, dy * cos - dx * sin);
        [x * self.stretch[0], y * self.stretch[1], z]
    }
}

/// Knots 0 to 7 by the outer side, and their mirror image.
fn mirrored(half: [Point; 8]) -> [Point; KNOTS] {
    std::array::from_fn(|knot| match half.get(knot) {
        Some(point) => *point,
        None => {
            let [x, y, z] = half[KNOTS - knot];
            [x, y, -z]
        }
    })
}

/// How many knots a place is away from the back of the heel: 0 to 7.
pub(super) fn from_heel(a: f32) -> f32 {
    7.0 - (a.rem_euclid(AROUND) - 7.0).abs()
}

/// 0 before 0, 1 behind 1, and no corners between.
pub(super) fn smooth(t: f32) -> f32 {
    let t = t.clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

pub(super) fn lerp(from: f32, to: f32, share: f32) -> f32 {
    from + (to - from) * share
}

/// A cubic curve from 0 to 1 with these two inner points.
fn bezier(one: f32, two: f32, t: f32) -> f32 {
    let u = 1.0 - t;
    3.0 * u * u * t * one + 3.0 * u * t * t * two + t * t * t
}

/// The closed curve through the knots (Catmull and Rom's).
fn around<const D: usize>(knots: &[[f32; D]; KNOTS], a: f32) -> [f32; D] {
    let a = a.rem_euclid(AROUND);
    let index = a.floor() as usize;
    let t = a - index as f32;
    let knot = |ahead: usize| &knots[(index + KNOTS + ahead - 1) % KNOTS];
    let (p0, p1, p2, p3) = (knot(0), knot(1), knot(2), knot(3));
    std::array::from_fn(|axis| {
        let (p0, p1, p2, p3) = (p0[axis], p1[axis], p2[axis], p3[axis]);
        p1 + 0.5
            * t
            * (p2 - p0
                + t * (2.0 * p0 - 5.0 * p1 + 4.0 * p2 - p3 + t * (3.0 * (p1 - p2) + p3 - p0)))
    })
}

/// A height from a table by x, with its corners taken off.
fn level(table: &[(f32, f32)], x: f32) -> f32 {
    let at = |x: f32| {
        let next = table.iter().position(|(known, _)| *known > x);
        match next {
            Some(0) => table[0].1,
            Some(next) => {
                let ((x0, y0), (x1, y1)) = (table[next - 1], table[next]);
                lerp(y0, y1, (x - x0) / (x1 - x0))
            }
            None => table[table.len() - 1].1,
        }
    };
    0.25 * at(x - 0.6) + 0.5 * at(x) + 0.25 * at(x + 0.6)
}
