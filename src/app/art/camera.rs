//! From the form's centimetres to the picture's units: a camera that turns around the shoe, with a mild perspective.

use super::last::Point;

/// A place in the picture.
pub(super) type Spot = [f32; 2];

/// How far the camera is away, in centimetres.
const DISTANCE: f32 = 95.0;
/// What it looks at: the middle of a shoe.
const CENTRE: Point = [14.2, 5.0, 0.0];

/// Where the light comes from, as the camera sees it.
const LIGHT: Point = [-0.34, 0.74, 0.58];

/// A camera.
#[derive(Debug, Clone, Copy)]
pub(super) struct Camera {
    yaw: (f32, f32),
    pitch: (f32, f32),
    scale: f32,
    centre: Spot,
}

impl Camera {
    /// Looks at the outer side from `yaw` degrees to the left of it (negative: from the toe's side) and `pitch` degrees above.
    pub fn new(yaw: f32, pitch: f32) -> Camera {
        Camera {
            yaw: yaw.to_radians().sin_cos(),
            pitch: pitch.to_radians().sin_cos(),
            scale: 1.0,
            centre: [0.0, 0.0],
        }
    }

    /// The same with a scale, in units a centimetre, and the place of the shoe's middle.
    pub fn at(self, scale: f32, centre: Spot) -> Camera {
        Camera {
            scale,
            centre,
            ..self
        }
    }

    /// The same so that the points fill a box around `middle`, at no more than `most` units a centimetre.
    pub fn fit(self, points: &[Point], middle: Spot, size: Spot, most: f32) -> Camera {
        let plain = self.at(1.0, [0.0, 0.0]);
        let (mut least, mut greatest) = ([f32::MAX; 2], [f32::MIN; 2]);
        for point in points {
            let spot = plain.spot(*point);
            for axis in 0..2 {
                least[axis] = least[axis].min(spot[axis]);
                greatest[axis] = greatest[axis].max(spot[axis]);
            }
        }
        let scale = (0..2)
            .map(|axis| size[axis] / (greatest[axis] - least[axis]).max(1.0))
            .fold(most, f32::min);
        let centre =
            std::array::from_fn(|axis| middle[axis] - scale * (least[axis] + greatest[axis]) / 2.0);
        self.at(scale, centre)
    }

    /// The picture's units in one centimetre, where the shoe is.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// A point in the camera's own directions: right, up, towards it.
    pub fn turned(&self, [x, y, z]: Point) -> Point {
        let (x, y, z) = (x - CENTRE[0], y - CENTRE[1], z - CENTRE[2]);
        let ((sin_yaw, cos_yaw), (sin_pitch, cos_pitch)) = (self.yaw, self.pitch);
        let (x, z) = (x * cos_yaw + z * sin_yaw, z * cos_yaw - x * sin_yaw);
        [
            x,
            y * cos_pitch - z * sin_pitch,
            y * sin_pitch + z * cos_pitch,
        ]
    }

    /// Where a point appears.
    pub fn spot(&self, point: Point) -> Spot {
        let [x, y, z] = self.turned(point);
        let nearer = DISTANCE / (DISTANCE - z).max(1.0);
        [
            self.centre[0] + self.scale * nearer * x,
            self.centre[1] - self.scale * nearer * y,
        ]
    }

    /// How bright a patch with these corners is, about 0 to 1.
    pub fn brightness(&self, [a, b, c]: [Point; 3]) -> f32 {
        let (a, b, c) = (self.turned(a), self.turned(b), self.turned(c));
        let side = |axis: usize| b[axis] - a[axis];
        let rise = |axis: usize| c[axis] - a[axis];
        let normal = [
            side(1) * rise(2) - side(2) * rise(1),
            side(2) * rise(0) - side(0) * rise(2),
            side(0) * rise(1) - side(1) * rise(0),
        ];
        let length = normal.iter().map(|n| n * n).sum::<f32>().sqrt().max(1e-6);
        let lit: f32 = normal.iter().zip(LIGHT).map(|(n, l)| n / length * l).sum();
        // What turns away from the eye is darker as well.
        0.82 * lit.max(0.0) + 0.18 * (normal[2] / length).max(0.0)
    }
}

/// Whether a patch with these corners, counterclockwise as seen from outside, shows its outer side.
pub(super) fn faces(corners: [Spot; 4]) -> bool {
    let area: f32 = (0..4)
        .map(|index| {
            let (one, next) = (corners[index], corners[(index + 1) % 4]);
            one[0] * next[1] - next[0] * one[1]
        })
        .sum();
    // The picture's y grows downwards.
    area < 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_front_is_larger_and_what_is_above_is_higher() {
        let camera = Camera::new(0.0, 0.0).at(40.0, [800.0, 600.0]);
        let [toe, heel] = [camera.spot([28.0, 0.0, 0.0]), camera.spot([0.0, 0.0, 0.0])];
        assert!(toe[0] > heel[0]);
        assert!(camera.spot([14.0, 9.0, 0.0])[1] < camera.spot([14.0, 0.0, 0.0])[1]);
        let width = |z| camera.spot([28.0, 0.0, z])[0] - camera.spot([0.0, 0.0, z])[0];
        assert!(width(4.0) > width(-4.0));
    }

    #[test]
    fn a_camera_fits_what_it_is_given() {
        let points = [[0.0, 0.0, 0.0], [28.0, 12.0, 3.0]];
        let camera = Camera::new(20.0, 15.0).fit(&points, [800.0, 600.0], [1000.0, 500.0], 99.0);
        for point in points {
            let [x, y] = camera.spot(point);
            assert!(
                (299.0..=1301.0).contains(&x) && (349.0..=851.0).contains(&y),
                "{x} {y}"
            );
        }
    }

    #[test]
    fn a_patch_faces_by_the_order_of_its_corners() {
        let square = [[0.0, 0.0], [1.0, 0.0], [1.0, -1.0], [0.0, -1.0]];
        assert!(faces(square));
        assert!(!faces([square[3], square[2], square[1], square[0]]));
    }
}
