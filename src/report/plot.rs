//! Plots as SVG. Drawn at four times their size, as the backend rounds to whole pixels; its fixed colours stand
//! for CSS custom properties, so that a plot follows the page into the dark and onto paper.

use std::fmt::Display;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::ReportError;
use super::format;
use crate::evaluation::sequence::Interval;
use crate::units::UnixMs;

const WIDTH: u32 = 1920;
const HEIGHT: u32 = 1000;
const TEXT: u32 = 62;
/// Share of the horizontal axis at its beginning that bears no label.
const CORNER: f64 = 0.05;

/// Stands for the colour of lines and grid.
const LINE: RGBColor = RGBColor(0xA0, 0xB0, 0xF0);
/// Stands for the colour of text.
const INK: RGBColor = RGBColor(0xA0, 0xB0, 0xF1);

/// Stands for the colour of series `index`.
fn series(index: usize) -> RGBColor {
    RGBColor(0xA0, 0xB0, (index % super::page::SERIES) as u8)
}

/// What an axis measures: how its ticks are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Milliseconds since 1970.
    Time,
    /// Samples, requests.
    Count,
    /// Dollars.
    Usd,
    /// Shares of one.
    Share,
    /// Scores in [0, 1].
    Score,
    /// Milliseconds.
    Millis,
}

impl Scale {
    fn write(self, value: f64, span: f64) -> String {
        // No "-0.00".
        let value = if value.abs() < span * 1e-6 { 0.0 } else { value };
        match self {
            Self::Time => format::tick(UnixMs(value as i64), span as i64),
            Self::Count => format::count(value.max(0.0) as u64),
            Self::Usd if value == 0.0 => "$0".to_owned(),
            Self::Usd => short_usd(value),
            Self::Share => format!("{:.0} %", 100.0 * value),
            Self::Score if span < 0.05 => format!("{value:.3}"),
            Self::Score => format!("{value:.2}"),
            Self::Millis => format::millis(value),
        }
    }
}

/// Dollars on an axis: two significant digits, and no longer than they need to be.
fn short_usd(value: f64) -> String {
    let decimals = (1 - value.abs().log10().floor() as i32).clamp(0, 7) as usize;
    let text = format!("{value:.decimals$}");
    let trimmed = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    if let Some(size) = trimmed.strip_prefix('-') {
        format!("-${size}")
    } else {
        format!("${trimmed}")
    }
}

/// A line of a plot, with a band around it if it is uncertain.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// Points in the order of x.
    pub points: Vec<(f64, f64)>,
    /// Lower and upper end at each x.
    pub band: Vec<(f64, f64, f64)>,
    /// Index of the colour.
    pub colour: usize,
}

/// What a plot is and measures.
#[derive(Clone, Debug, PartialEq)]
pub struct Axes {
    /// For readers that do not see it.
    pub label: String,
    /// Horizontal axis.
    pub x: Scale,
    /// Vertical axis.
    pub y: Scale,
    /// Ends of the vertical axis; from the data if none are given.
    pub y_range: Option<(f64, f64)>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws with `draw` and turns the result into an inline SVG.
fn svg(
    label: &str,
    height: u32,
    draw: impl FnOnce(&Area<'_>) -> Result<(), String>,
) -> Result<String, ReportError> {
    let failed = |reason: String| ReportError::Plot {
        plot: label.to_owned(),
        reason,
    };
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        draw(&area).map_err(failed)?;
        area.present().map_err(|error| failed(error.to_string()))?;
    }
    let body = text.split_once('>').map_or("", |(_, body)| body);
    let mut themed = body
        .replace("#A0B0F0", "var(--line)")
        .replace("#A0B0F1", "var(--soft)");
    for index in 0..super::page::SERIES {
        themed = themed.replace(&format!("#A0B0{index:02X}"), &format!("var(--c{index})"));
    }
    let label = maud::html! { (label) }.into_string();
    Ok(format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{label}\">{}",
        themed.replace("font-family=\"sans-serif\"", "font-family=\"inherit\"")
    ))
}

fn told(error: impl Display) -> String {
    error.to_string()
}

/// Low and high of the values with a little air; never empty.
fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::MAX, f64::MIN), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low > high {
        return (0.0, 1.0);
    }
    let air = if high > low {
        0.05 * (high - low)
    } else {
        0.5 * high.abs().max(1e-9)
    };
    (low - air, high + air)
}

fn range_x(points: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = points.fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(x), h.max(x)));
    if low < high {
        (low, high)
    } else if low == high {
        (low - 1.0, high + 1.0)
    } else {
        (0.0, 1.0)
    }
}

/// Lines with bands over a common x.
///
/// # Errors
/// If the library cannot draw them.
pub fn lines(axes: &Axes, lines: &[Line]) -> Result<String, ReportError> {
    let (x0, x1) = range_x(
        lines
            .iter()
            .flat_map(|line| line.points.iter().map(|point| point.0)),
    );
    let bands = lines
        .iter()
        .flat_map(|line| line.band.iter().flat_map(|(_, low, high)| [*low, *high]));
    let (y0, y1) = axes.y_range.unwrap_or_else(|| {
        extent(
            lines
                .iter()
                .flat_map(|line| line.points.iter().map(|point| point.1))
                .chain(bands),
        )
    });
    svg(&axes.label, HEIGHT, |area| {
        let mut chart = framed(area, axes, (x0, x1), (y0, y1))?;
        let inside = |y: f64| y.clamp(y0, y1);
        for line in lines {
            let upper = line.band.iter().map(|(x, _, high)| (*x, inside(*high)));
            let lower = line.band.iter().rev().map(|(x, low, _)| (*x, inside(*low)));
            let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
            if outline.len() > 2 {
                let fill = series(line.colour).mix(0.18).filled();
                chart.draw_series([Polygon::new(outline, fill)]).map_err(told)?;
            }
        }
        for line in lines {
            let style = series(line.colour).stroke_width(8);
            let points = line.points.iter().map(|(x, y)| (*x, inside(*y)));
            chart
                .draw_series(LineSeries::new(points.clone(), style))
                .map_err(told)?;
            if line.points.len() == 1 {
                let dots = points.map(|point| Circle::new(point, 12, series(line.colour).filled()));
                chart.draw_series(dots).map_err(told)?;
            }
        }
        Ok(())
    })
}

/// Shares of a whole over x, stacked; `shares[s][i]` is series s at `xs[i]`. Colours in order.
///
/// # Errors
/// If the library cannot draw them.
pub fn stacked(axes: &Axes, xs: &[f64], shares: &[Vec<f64>]) -> Result<String, ReportError> {
    // One moment is shown as a block, not as a line without width.
    let wide: Vec<f64> = if let [only] = xs {
        vec![only - 1.0, only + 1.0]
    } else {
        xs.to_vec()
    };
    let at = |values: &[f64], i: usize| {
        values
            .get(i.min(xs.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0.0)
    };
    svg(&axes.label, HEIGHT, |area| {
        let mut chart = framed(
            area,
            axes,
            range_x(wide.iter().copied()),
            axes.y_range.unwrap_or((0.0, 1.0)),
        )?;
        let mut base = vec![0.0; wide.len()];
        for (index, values) in shares.iter().enumerate() {
            let top: Vec<f64> = base
                .iter()
                .enumerate()
                .map(|(i, low)| low + at(values, i))
                .collect();
            let upper = wide.iter().copied().zip(top.iter().copied());
            let lower = wide.iter().copied().zip(base.iter().copied()).rev();
            let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
            if outline.len() > 2 {
                chart
                    .draw_series([Polygon::new(outline, series(index).mix(0.85).filled())])
                    .map_err(told)?;
            }
            base = top;
        }
        Ok(())
    })
}

/// The frame with axes that both kinds of plot share.
fn framed<'a, 'b>(
    area: &'a Area<'b>,
    axes: &Axes,
    x: (f64, f64),
    y: (f64, f64),
) -> Result<
    ChartContext<
        'a,
        SVGBackend<'b>,
        Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
    >,
    String,
> {
    let mut chart = ChartBuilder::on(area)
        .margin_top(30)
        .margin_right(70)
        .margin_bottom(6)
        .set_label_area_size(LabelAreaPosition::Left, 250)
        .set_label_area_size(LabelAreaPosition::Bottom, 90)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)
        .map_err(told)?;
    let text = TextStyle::from(("sans-serif", TEXT)).color(&INK);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(LINE.stroke_width(3))
        .axis_style(LINE.stroke_width(4))
        .label_style(text)
        .x_labels(4)
        .y_labels(5)
        .x_label_formatter(&|value| {
            let width = x.1 - x.0;
            // It would run into the lowest label of the vertical axis.
            if value - x.0 < CORNER * width {
                String::new()
            } else {
                axes.x.write(*value, width)
            }
        })
        .y_label_formatter(&|value| axes.y.write(*value, y.1 - y.0))
        .draw()
        .map_err(told)?;
    Ok(chart)
}

/// One row of [`intervals`].
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Written at the left.
    pub label: String,
    /// The interval drawn.
    pub interval: Interval,
    /// Index of the colour.
    pub colour: usize,
}

/// Intervals below each other on one axis, with upright marks (zero, a margin).
///
/// # Errors
/// If the library cannot draw them.
pub fn intervals(label: &str, scale: Scale, rows: &[Row], marks: &[f64]) -> Result<String, ReportError> {
    let finite = rows.iter().filter(|row| row.interval.half_width().is_finite());
    let ends = finite.flat_map(|row| [row.interval.low, row.interval.high]);
    let (low, high) = extent(ends.chain(marks.iter().copied()));
    let height = 190 + 130 * rows.len() as u32;
    svg(label, height, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin_top(20)
            .margin_right(90)
            .set_label_area_size(LabelAreaPosition::Bottom, 90)
            .margin_left(90)
            .build_cartesian_2d(low..high, 0.0..rows.len() as f64)
            .map_err(told)?;
        let text = TextStyle::from(("sans-serif", TEXT)).color(&INK);
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .light_line_style(TRANSPARENT)
            .bold_line_style(LINE.stroke_width(3))
            .axis_style(LINE.stroke_width(4))
            .label_style(text.clone())
            .x_labels(4)
            .x_label_formatter(&|value| scale.write(*value, high - low))
            .draw()
            .map_err(told)?;
        for mark in marks {
            let ends = [(*mark, 0.0), (*mark, rows.len() as f64)];
            chart
                .draw_series([PathElement::new(ends, INK.stroke_width(6))])
                .map_err(told)?;
        }
        for (index, row) in rows.iter().enumerate() {
            let y = rows.len() as f64 - index as f64 - 0.68;
            let clip = |value: f64| value.clamp(low, high);
            let colour = series(row.colour);
            let ends = [(clip(row.interval.low), y), (clip(row.interval.high), y)];
            chart
                .draw_series([PathElement::new(ends, colour.stroke_width(12))])
                .map_err(told)?;
            let dot = Circle::new((clip(row.interval.estimate), y), 20, colour.filled());
            chart.draw_series([dot]).map_err(told)?;
            chart
                .draw_series([Text::new(row.label.clone(), (low, y + 0.6), text.clone())])
                .map_err(told)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_follows_the_page() {
        let axes = Axes {
            label: "spend & \"more\"".into(),
            x: Scale::Time,
            y: Scale::Usd,
            y_range: None,
        };
        let line = Line {
            points: vec![(0.0, 0.0), (60_000.0, 0.25)],
            band: vec![(0.0, -0.1, 0.1), (60_000.0, 0.2, 0.3)],
            colour: 1,
        };
        let drawn = lines(&axes, &[line]).unwrap();
        assert!(drawn.starts_with("<svg viewBox") && drawn.trim_end().ends_with("</svg>"));
        assert!(drawn.contains("var(--c1)") && drawn.contains("var(--soft)"));
        assert!(!drawn.contains("#A0B0"), "a placeholder colour was left");
        assert!(drawn.contains("aria-label=\"spend &amp; &quot;more&quot;\""));
    }

    #[test]
    fn the_corner_has_one_label() {
        let axes = Axes {
            label: "x".into(),
            x: Scale::Count,
            y: Scale::Usd,
            y_range: Some((0.5, 0.9)),
        };
        let ticks_from = |first: f64| {
            let line = Line {
                points: vec![(first, 0.5), (1_300.0, 0.9)],
                ..Line::default()
            };
            let drawn = lines(&axes, &[line]).unwrap();
            [1_000.0, 1_100.0].map(|tick| drawn.contains(&format!("\n{}\n", axes.x.write(tick, 300.0))))
        };
        assert_eq!(ticks_from(1_000.0), [false, true], "it begins at a tick");
        assert_eq!(ticks_from(960.0), [true, true]);
    }

    #[test]
    fn nothing_or_one_point_is_still_a_plot() {
        let axes = Axes {
            label: "x".into(),
            x: Scale::Count,
            y: Scale::Score,
            y_range: Some((0.0, 1.0)),
        };
        assert!(lines(&axes, &[]).is_ok());
        assert!(
            lines(
                &axes,
                &[Line {
                    points: vec![(3.0, 0.5)],
                    ..Line::default()
                }]
            )
            .is_ok()
        );
        assert!(stacked(&axes, &[], &[]).is_ok());
        assert!(stacked(&axes, &[1.0], &[vec![1.0]]).unwrap().contains("polygon"));
        let row = Row {
            label: "m".into(),
            interval: Interval::around(0.5, f64::INFINITY),
            colour: 0,
        };
        assert!(intervals("x", Scale::Score, &[row], &[0.0]).is_ok());
    }

    #[test]
    fn dollars_on_an_axis_are_short() {
        assert_eq!(short_usd(0.25), "$0.25");
        assert_eq!(short_usd(0.0002), "$0.0002");
        assert_eq!(short_usd(20.0), "$20");
        assert_eq!(short_usd(-1.5), "-$1.5");
    }
}
