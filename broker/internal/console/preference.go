package console

import (
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/internal/problem"
	"keyward/ui"
)

const preferenceLife = 365 * 24 * time.Hour

// savePreferences keeps theme and side bar in cookies; it works before log-on too.
func savePreferences(v *visit) error {
	switch v.form("theme") {
	case "light", "dark":
		v.setCookie(cookieTheme, v.form("theme"), preferenceLife)
	case "system":
		v.dropCookie(cookieTheme)
	}
	switch v.form("sidebar") {
	case "collapsed":
		v.setCookie(cookieSidebar, "collapsed", preferenceLife)
	case "expanded":
		v.dropCookie(cookieSidebar)
	}
	return v.http.Redirect(localPath(v.form("here"), "/"), fiber.StatusSeeOther)
}

// serveAsset answers with an embedded file. Its address holds the hash of all of them, so it may be kept for ever.
func serveAsset(v *visit) error {
	name := v.http.Params("*")
	data, mediaType, ok := ui.Asset(name)
	if !ok || v.http.Path() != ui.AssetURL(name) {
		return problem.New(http.StatusNotFound, "not-found", "Not found", "There is no such file in this release.", "Reload the page.")
	}
	v.http.Set(fiber.HeaderContentType, mediaType)
	v.http.Set(fiber.HeaderCacheControl, "public, max-age=31536000, immutable")
	return v.http.Send(data)
}
