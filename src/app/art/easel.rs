//! The tools that a shoe is drawn with: what is seen of a strip, a line or a piece on a curved surface, and how it is filled,
//! stroked and sewn.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::camera::{Camera, Spot, faces};
use super::last::{AROUND, Last, lerp};
use super::pen::Pen;
use super::style::{Palette, Rgb, Style};

/// A shoe that is being drawn.
pub(super) struct Easel<'a> {
    pub style: &'a Style,
    pub palette: Palette,
    pub last: &'a Last,
    pub camera: &'a Camera,
    /// The elements so far.
    pub out: String,
}

/// `count` steps from one number to another, both ends included.
pub(super) fn steps(
    from: f32,
    to: f32,
    count: usize,
) -> impl DoubleEndedIterator<Item = f32> + Clone {
    (0..=count).map(move |step| lerp(from, to, step as f32 / count as f32))
}

/// The corners of a cell of a grid, counterclockwise: column and row.
pub(super) fn corners(column: usize, row: usize) -> [(usize, usize); 4] {
    [
        (column, row),
        (column + 1, row),
        (column + 1, row + 1),
        (column, row + 1),
    ]
}

/// The outline of those cells of a grid that are `chosen`. `grid` has a row of places for each line between the cells.
pub(super) fn outline(grid: &[Vec<Spot>], chosen: &dyn Fn(usize, usize) -> bool) -> String {
    let rows = grid.len().saturating_sub(1);
    let columns = grid.first().map_or(0, |line| line.len().saturating_sub(1));
    let cells: Vec<Vec<bool>> = (0..rows)
        .map(|row| (0..columns).map(|column| chosen(column, row)).collect())
        .collect();
    let is_chosen = |column: Option<usize>, row: Option<usize>| {
        let line = row.and_then(|row| cells.get(row));
        column
            .and_then(|column| line?.get(column))
            .copied()
            .unwrap_or(false)
    };
    // Each side of a cell that has no neighbour, by where it begins. Insides cancel each other out.
    let mut sides: BTreeMap<(usize, usize), Vec<(usize, usize)>> = BTreeMap::new();
    for (row, line) in cells.iter().enumerate() {
        for column in (0..columns).filter(|column| line[*column]) {
            let neighbours = [
                (Some(column), row.checked_sub(1)),
                (Some(column + 1), Some(row)),
                (Some(column), Some(row + 1)),
                (column.checked_sub(1), Some(row)),
            ];
            let corners = corners(column, row);
            for (side, (column, row)) in neighbours.into_iter().enumerate() {
                if !is_chosen(column, row) {
                    let ends = (corners[side], corners[(side + 1) % 4]);
                    sides.entry(ends.0).or_default().push(ends.1);
                }
            }
        }
    }
    let mut pen = Pen::default();
    while let Some((&start, _)) = sides.first_key_value() {
        let mut corner = start;
        let mut shape = Vec::new();
        while let Some(ends) = sides.get_mut(&corner) {
            shape.push(grid[corner.1][corner.0]);
            let next = ends.pop();
            if ends.is_empty() {
                sides.remove(&corner);
            }
            match next {
                Some(next) => corner = next,
                None => break,
            }
        }
        pen.shape(shape);
    }
    pen.data()
}

impl Easel<'_> {
    pub fn skin(&self, a: f32, v: f32) -> Spot {
        self.camera.spot(self.last.skin(a, v))
    }

    pub fn wall(&self, a: f32, w: f32) -> Spot {
        // On the sole's side the second coordinate runs down, where everything else expects it to run up.
        self.camera.spot(self.last.wall(a, 1.0 - w))
    }

    /// What is seen of the strip of a surface between two heights, from `from` to `to` around the shoe.
    pub fn strip(
        &self,
        surface: &dyn Fn(f32, f32) -> Spot,
        (from, to): (f32, f32),
        [columns, rows]: [usize; 2],
        low: &dyn Fn(f32) -> f32,
        high: &dyn Fn(f32) -> f32,
    ) -> String {
        let grid: Vec<Vec<Spot>> = (0..=rows)
            .map(|row| {
                let share = row as f32 / rows as f32;
                steps(from, to, columns)
                    .map(|a| surface(a, lerp(low(a), high(a), share)))
                    .collect()
            })
            .collect();
        outline(&grid, &|column, row| {
            faces(corners(column, row).map(|(column, row)| grid[row][column]))
        })
    }

    /// What is seen of a line on a surface, given as its places in order.
    pub fn seam(
        &self,
        surface: &dyn Fn(f32, f32) -> Spot,
        places: impl Iterator<Item = (f32, f32)>,
    ) -> String {
        let mut pen = Pen::default();
        let mut run: Vec<Spot> = Vec::new();
        for (a, v) in places {
            let corners = [(-0.06, -0.03), (0.06, -0.03), (0.06, 0.03), (-0.06, 0.03)];
            if faces(corners.map(|(da, dv)| surface(a + da, v + dv))) {
                run.push(surface(a, v));
            } else if run.len() > 1 {
                pen.line(run.drain(..));
            } else {
                run.clear();
            }
        }
        if run.len() > 1 {
            pen.line(run);
        }
        pen.data()
    }

    pub fn on_skin(&self, places: impl Iterator<Item = (f32, f32)>) -> String {
        self.seam(&|a, v| self.skin(a, v), places)
    }

    pub fn on_wall(&self, w: f32, (from, to): (f32, f32)) -> String {
        self.seam(
            &|a, w| self.wall(a, w),
            steps(from, to, 4 * (to - from) as usize).map(|a| (a, 1.0 - w)),
        )
    }

    /// Where a walk around the shoe begins, so that what is seen is in one piece.
    pub fn hidden(&self, surface: &dyn Fn(f32, f32) -> Spot) -> f32 {
        steps(0.0, AROUND, 28)
            .find(|a| {
                let corners = [(0.0, 0.1), (0.3, 0.1), (0.3, 0.4), (0.0, 0.4)];
                !faces(corners.map(|(da, v)| surface(a + da, v)))
            })
            .unwrap_or(0.0)
    }

    /// A length in the picture, of so many centimetres.
    pub fn wide(&self, centimetres: f32) -> f32 {
        (self.camera.scale() * centimetres * 10.0).round() / 10.0
    }

    pub fn fill(&mut self, data: &str, colour: &str, extra: &str) {
        if !data.is_empty() {
            let _ = write!(self.out, "<path d=\"{data}\" fill=\"{colour}\"{extra}/>");
        }
    }

    pub fn stroke(&mut self, data: &str, colour: Rgb, width: f32, extra: &str) {
        if !data.is_empty() {
            let _ = write!(
                self.out,
                "<path d=\"{data}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width:.1}\"{extra}/>"
            );
        }
    }

    /// One line under several strokes, the lowest first, each with its colour, width and more. It is written down once, as `id`.
    pub fn strokes(&mut self, id: &str, data: &str, layers: &[(Rgb, f32, &str)]) {
        if data.is_empty() {
            return;
        }
        let _ = write!(
            self.out,
            "<defs><path id=\"{id}\" d=\"{data}\"/></defs><g fill=\"none\" stroke-linecap=\"round\" stroke-linejoin=\"round\">"
        );
        for (colour, width, extra) in layers {
            let _ = write!(
                self.out,
                "<use href=\"#{id}\" stroke=\"{colour}\" stroke-width=\"{width:.1}\"{extra}/>"
            );
        }
        self.out.push_str("</g>");
    }

    /// A sewn line: holes of shadow and stitches of light.
    pub fn stitches(&mut self, data: &str, over: Rgb) {
        let thread = if over.light() > 0.6 {
            over.darker(0.38)
        } else {
            over.lighter(0.45)
        };
        let (dash, gap, width) = (self.wide(0.2), self.wide(0.13), self.wide(0.055));
        self.stroke(
            data,
            thread,
            width,
            &format!(" stroke-dasharray=\"{dash} {gap}\" stroke-linecap=\"round\" opacity=\".85\""),
        );
    }

    /// A piece of the upper with these corners, if it is seen; its edges follow the upper.
    pub fn patch(
        &self,
        surface: &dyn Fn(f32, f32) -> Spot,
        inner: bool,
        corners: &[[f32; 2]],
    ) -> String {
        let count = corners.len() as f32;
        let [a, v] =
            [0, 1].map(|axis| corners.iter().map(|corner| corner[axis]).sum::<f32>() / count);
        let around = [(-0.05, -0.03), (0.05, -0.03), (0.05, 0.03), (-0.05, 0.03)]
            .map(|(da, dv)| surface(a + da, v + dv));
        if faces(around) == inner {
            return String::new();
        }
        let mut pen = Pen::default();
        let parts = if corners.len() > 8 { 1 } else { 5 };
        pen.shape(corners.iter().enumerate().flat_map(|(index, from)| {
            let to = corners[(index + 1) % corners.len()];
            (0..parts).map(move |part| {
                let share = part as f32 / parts as f32;
                surface(lerp(from[0], to[0], share), lerp(from[1], to[1], share))
            })
        }));
        pen.data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outline_leaves_out_what_cells_share() {
        let grid: Vec<Vec<Spot>> = (0..4)
            .map(|row| (0..4).map(|column| [column as f32, row as f32]).collect())
            .collect();
        assert_eq!(outline(&grid, &|_, _| false), "");
        assert_eq!(
            outline(&grid, &|column, row| (column, row) == (1, 1)),
            "M1 1l1 0 0 1-1 0z"
        );
        let whole = outline(&grid, &|_, _| true);
        assert_eq!(whole.matches('M').count(), 1, "{whole}");
        // A hole has an outline of its own, and so has each of two cells that touch at a corner.
        assert_eq!(
            outline(&grid, &|column, row| (column, row) != (1, 1))
                .matches('M')
                .count(),
            2
        );
        assert_eq!(
            outline(&grid, &|column, row| column == row)
                .matches('z')
                .count(),
            1
        );
    }
}
