package console

import (
	"net/http"
	"net/url"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/rbac"
	"keyward/ui"
)

var crumbImages = []ui.Link{{Text: "Inventory"}, {Text: "Images", URL: "/inventory/images"}}

func showImages(v *visit) error {
	images, err := v.Inventory.Images(v.ctx, v.p)
	if err != nil {
		return err
	}
	names, err := v.policyNames()
	if err != nil {
		return err
	}
	search := v.query("q")
	var rows []ui.ImageRow
	for _, i := range images {
		if !contains(search, i.Name, i.Identity, i.Provider) {
			continue
		}
		rows = append(rows, ui.ImageRow{Image: ui.Link{Text: i.Name, URL: "/inventory/images/" + i.ID}, Identity: i.Identity,
			Provider: i.Provider, Policies: v.policyLinks(i.PolicyIDs, names), Instances: i.Instances})
	}
	page, size := v.page()
	query := url.Values{}
	if search != "" {
		query.Set("q", search)
	}
	pager := ui.NewPager("/inventory/images", query, page, size, int64(len(rows)))
	model := ui.ImagesPage{
		Frame:  v.frame("Images", "Here you can view the images that machines were started from, and the policies they belong to.", crumbImages[0]),
		Search: ui.Field{Name: "q", Label: "Search images", Value: search},
		Rows:   cut(rows, pager), Pager: pager,
		Empty: ui.Empty{Icon: "image", Title: "No images yet", Text: "An image appears when a machine started from it publishes its inventory."},
	}
	if search != "" {
		model.Empty = ui.Empty{Icon: "search", Title: "Nothing matches", Text: "No image has these words in its name or identity.",
			Action: &ui.Button{Text: "Show all", URL: "/inventory/images"}}
	}
	return v.show(http.StatusOK, "images", model)
}

// cut takes the pager's rows out of all of them.
func cut[T any](rows []T, p ui.Pager) []T {
	if p.Total == 0 {
		return nil
	}
	return rows[p.From-1 : p.To]
}

func contains(search string, texts ...string) bool {
	return strings.Contains(strings.ToLower(strings.Join(texts, "\x00")), strings.ToLower(search))
}

func (v *visit) policyNames() (map[string]string, error) {
	policies, err := v.Policies.List(v.ctx, v.p)
	if err != nil {
		return nil, err
	}
	names := make(map[string]string, len(policies))
	for _, p := range policies {
		names[p.ID] = p.Name
	}
	return names, nil
}

func (v *visit) policyLinks(ids []string, names map[string]string) []ui.Link {
	var links []ui.Link
	for _, id := range ids {
		links = append(links, v.link(rbac.PoliciesRead, names[id], "/policies/", id))
	}
	return links
}

func showImage(v *visit) error {
	image, err := v.Inventory.Image(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	page, err := v.imagePage(image)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "image", page)
}

func (v *visit) imagePage(image api.Image) (ui.ImagePage, error) {
	title := "Edit Image: " + image.Name
	write := v.may(rbac.ImagesWrite)
	if !write {
		title = "Image: " + image.Name
	}
	page := ui.ImagePage{
		Frame:  v.frame(title, "Here you can view an image, its policies and its machines, and give it a name.", crumbImages...),
		Action: "/inventory/images/" + image.ID, CanWrite: write, Back: ui.Link{Text: "Images", URL: "/inventory/images"},
		Fields: []ui.Field{
			{Name: "name", Label: "Name", Type: "text", Value: image.Name, Required: true, MaxLength: 64, Disabled: !write},
			{Name: "description", Label: "Description", Type: "textarea", Value: image.Description, MaxLength: 1024, Disabled: !write},
		},
		Facts: []ui.Pair{{Label: "Image ID", Value: image.Identity, Code: true}, {Label: "Provider", Value: image.Provider}},
	}
	if image.CertificateExpiresAt != nil {
		page.Facts = append(page.Facts, ui.Pair{Label: "Machines enrol by themselves until", Value: v.exact(image.CertificateExpiresAt)})
		if write {
			page.Buttons = append(page.Buttons, ui.Button{Text: "Revoke certificate", Icon: "ban", URL: page.Action + "/revoke-certificate", Dialog: true, Danger: true})
		}
	}
	names, err := v.policyNames()
	if err != nil {
		return page, err
	}
	page.Policies = v.policyLinks(image.PolicyIDs, names)
	at, size := v.page()
	instances, total, err := v.Inventory.Instances(v.ctx, v.p, inventory.InstanceQuery{Image: image.ID, Page: at, Size: size})
	if err != nil {
		return page, err
	}
	for _, i := range instances {
		page.Instances = append(page.Instances, ui.InstanceRow{
			Instance: v.link(rbac.RunningInstancesRead, instanceName(i), "/instances/", i.ID),
			Status:   instanceBadge(i), Location: i.Location, LastSeen: v.whenOptional(i.LastSeenAt),
		})
	}
	page.Pager = ui.NewPager("/inventory/images/"+image.ID, url.Values{}, at, size, total)
	return page, nil
}

func saveImage(v *visit) error {
	in := api.ImageWrite{Name: v.text("name"), Description: v.text("description")}
	_, err := v.Inventory.RenameImage(v.ctx, v.p, v.id(), in)
	if err == nil {
		return v.to(after(v, "/inventory/images", "/inventory/images/"+v.id()), "saved")
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	image, err := v.Inventory.Image(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	image.Name, image.Description = in.Name, in.Description
	page, err := v.imagePage(image)
	if err != nil {
		return err
	}
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "image", page)
}

// after is where a form leads: Save goes back to the list, Apply stays.
func after(v *visit, list, self string) string {
	if v.form("then") == "stay" {
		return self
	}
	return list
}
