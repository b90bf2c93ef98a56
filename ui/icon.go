package ui

import "html/template"

// icons are drawn by us on a 20 by 20 grid with strokes of 1.6; they inherit the colour of the text beside them.
var icons = map[string]string{
	"activity":    `<path d="M2 10.5h3.6l2.4-6 4 11 2.4-5H18"/>`,
	"alert":       `<path d="M10 3 1.8 16.8h16.4L10 3Z"/><path d="M10 8.2v3.6M10 14.3v.1"/>`,
	"arrow-left":  `<path d="M16.5 10h-13M8.5 5l-5 5 5 5"/>`,
	"ban":         `<circle cx="10" cy="10" r="7.4"/><path d="m4.9 4.9 10.2 10.2"/>`,
	"check":       `<path d="m3.8 10.6 4 4 8.4-9"/>`,
	"chevron":     `<path d="m7.5 4.5 5.5 5.5-5.5 5.5"/>`,
	"clock":       `<circle cx="10" cy="10" r="7.4"/><path d="M10 5.6V10l3 2"/>`,
	"cog":         `<circle cx="10" cy="10" r="2.7"/><path d="M10 2v2.6M10 15.4V18M2 10h2.6M15.4 10H18M4.3 4.3l1.9 1.9M13.8 13.8l1.9 1.9M4.3 15.7l1.9-1.9M13.8 6.2l1.9-1.9"/>`,
	"copy":        `<rect x="7" y="7" width="10" height="10" rx="1.6"/><path d="M13 7V4.6C13 3.7 12.3 3 11.4 3H4.6C3.7 3 3 3.7 3 4.6v6.8c0 .9.7 1.6 1.6 1.6H7"/>`,
	"cross":       `<path d="m5 5 10 10M15 5 5 15"/>`,
	"disk":        `<ellipse cx="10" cy="5" rx="6.8" ry="2.6"/><path d="M3.2 5v10c0 1.4 3 2.6 6.8 2.6s6.8-1.2 6.8-2.6V5M3.2 10c0 1.4 3 2.6 6.8 2.6s6.8-1.2 6.8-2.6"/>`,
	"download":    `<path d="M10 3v9.5M5.8 8.6l4.2 4.2 4.2-4.2M3.5 16.8h13"/>`,
	"eye":         `<path d="M1.8 10S4.8 4.6 10 4.6 18.2 10 18.2 10 15.2 15.4 10 15.4 1.8 10 1.8 10Z"/><circle cx="10" cy="10" r="2.4"/>`,
	"help":        `<circle cx="10" cy="10" r="7.4"/><path d="M7.8 7.8c0-1.3 1-2.1 2.2-2.1s2.2.8 2.2 2c0 1.6-2.2 1.7-2.2 3.4M10 13.8v.1"/>`,
	"image":       `<rect x="2.6" y="3.6" width="14.8" height="12.8" rx="1.8"/><path d="m2.6 13.4 4-3.8 3.6 3.4 2.4-2.2 4.8 4.2"/><circle cx="13" cy="7.6" r="1.2"/>`,
	"info":        `<circle cx="10" cy="10" r="7.4"/><path d="M10 9.2v4.6M10 6.2v.1"/>`,
	"key":         `<circle cx="6.6" cy="13.4" r="3.8"/><path d="m9.4 10.6 7.2-7.2M13.4 6.6l2.6 2.6M11.2 8.8l1.6 1.6"/>`,
	"list":        `<path d="M7 5h10M7 10h10M7 15h10M3.3 5h.1M3.3 10h.1M3.3 15h.1"/>`,
	"lock":        `<rect x="3.8" y="8.8" width="12.4" height="8.6" rx="1.8"/><path d="M6.6 8.8V6.2a3.4 3.4 0 0 1 6.8 0v2.6M10 12.2v2"/>`,
	"menu":        `<path d="M2.8 5h14.4M2.8 10h14.4M2.8 15h14.4"/>`,
	"minus":       `<path d="M4 10h12"/>`,
	"moon":        `<path d="M16.8 12.2A7.2 7.2 0 0 1 7.8 3.2a7.2 7.2 0 1 0 9 9Z"/>`,
	"plus":        `<path d="M10 3.5v13M3.5 10h13"/>`,
	"policy":      `<path d="M10 2.2 3.4 4.6v5c0 4 2.8 6.8 6.6 8.2 3.8-1.4 6.6-4.2 6.6-8.2v-5L10 2.2Z"/><path d="m7 9.8 2.2 2.2L13.2 8"/>`,
	"progress":    `<path d="M10 2.6a7.4 7.4 0 1 1-7.4 7.4"/>`,
	"search":      `<circle cx="8.8" cy="8.8" r="5.6"/><path d="m13 13 4.4 4.4"/>`,
	"server":      `<rect x="2.8" y="3" width="14.4" height="5.8" rx="1.4"/><rect x="2.8" y="11.2" width="14.4" height="5.8" rx="1.4"/><path d="M6 5.9h.1M6 14.1h.1M9.6 5.9H14M9.6 14.1H14"/>`,
	"sidebar":     `<rect x="2.6" y="3.6" width="14.8" height="12.8" rx="1.8"/><path d="M7.6 3.6v12.8"/>`,
	"sun":         `<circle cx="10" cy="10" r="3.4"/><path d="M10 1.8v1.8M10 16.4v1.8M1.8 10h1.8M16.4 10h1.8M4.2 4.2l1.3 1.3M14.5 14.5l1.3 1.3M4.2 15.8l1.3-1.3M14.5 5.5l1.3-1.3"/>`,
	"trash":       `<path d="M3.4 5.4h13.2M7.8 5.4V3.2h4.4v2.2M5 5.4l.8 11.4h8.4L15 5.4M8.4 8.6v5M11.6 8.6v5"/>`,
	"unknown":     `<circle cx="10" cy="10" r="7.4" stroke-dasharray="3 2.6"/><path d="M7.8 7.8c0-1.3 1-2.1 2.2-2.1s2.2.8 2.2 2c0 1.6-2.2 1.7-2.2 3.4M10 13.8v.1"/>`,
	"user":        `<circle cx="10" cy="6.6" r="3.6"/><path d="M3 17.4c.6-3.6 3.4-5.6 7-5.6s6.4 2 7 5.6"/>`,
	"users":       `<circle cx="7.6" cy="7" r="3.2"/><path d="M1.8 16.8c.4-3.2 2.8-5 5.8-5s5.4 1.8 5.8 5M12.8 4.2a3 3 0 0 1 0 5.6M15 12.2c1.8.6 3 2.2 3.2 4.6"/>`,
	"half-circle": `<circle cx="10" cy="10" r="7.4"/><path d="M10 2.6v14.8" /><path d="M10 5.8h5.9M10 9h7.3M10 12.2h7M10 15.2h5"/>`,
}

// icon draws one of our icons. It is decoration: the text beside it says the same.
func icon(name string) template.HTML {
	shape, ok := icons[name]
	if !ok {
		return ""
	}
	return template.HTML(`<svg class="icon" viewBox="0 0 20 20" width="20" height="20" aria-hidden="true" focusable="false">` + shape + `</svg>`)
}
