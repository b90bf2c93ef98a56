// Shows one part of a long form at a time, as tabs or as the steps of a wizard. Without it all parts stand in a row and
// the tabs are links to them.
export function tabs (root) {
  for (const form of root.querySelectorAll('form[data-tabs]')) {
    const links = [...form.querySelectorAll('.tabs a')]
    const parts = links.map(link => form.querySelector(link.getAttribute('href')))
    form.querySelector('.tabs ul').setAttribute('role', 'tablist')
    links.forEach((link, i) => {
      link.id = 'tab-' + parts[i].id
      link.setAttribute('role', 'tab')
      link.setAttribute('aria-controls', parts[i].id)
      link.parentElement.setAttribute('role', 'presentation')
      parts[i].setAttribute('role', 'tabpanel')
      parts[i].setAttribute('aria-labelledby', link.id)
    })

    const steps = form.querySelector('.step-buttons')
    let current = -1
    const show = (at, focus = false) => {
      if (at < 0 || at >= parts.length) return
      current = at
      links.forEach((link, i) => {
        link.setAttribute('aria-selected', String(i === at))
        link.tabIndex = i === at ? 0 : -1
        parts[i].hidden = i !== at
      })
      if (focus) links[at].focus()
      if (steps && 'steps' in form.dataset) {
        steps.hidden = false
        steps.querySelector('[data-step="-1"]').disabled = at === 0
        const next = steps.querySelector('[data-step="1"]')
        next.disabled = at === parts.length - 1
        next.classList.toggle('primary', !next.disabled)
        form.querySelector('[name=then][value=back]').classList.toggle('primary', next.disabled)
      }
    }
    const wrong = parts.findIndex(part => part.querySelector('[aria-invalid=true], .has-error'))
    const named = links.findIndex(link => link.hash === location.hash)
    show(wrong >= 0 ? wrong : Math.max(named, 0))

    links.forEach((link, i) => {
      link.addEventListener('click', event => {
        event.preventDefault()
        history.replaceState(null, '', link.hash)
        show(i)
      })
      link.addEventListener('keydown', event => {
        const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: links.length - 1 }[event.key]
        if (to === undefined) return
        event.preventDefault()
        show((to + links.length) % links.length, true)
      })
    })
    addEventListener('hashchange', () => show(links.findIndex(link => link.hash === location.hash)))
    form.addEventListener('click', event => {
      const step = event.target.closest('[data-step]')
      if (step && parts[current].querySelectorAll(':invalid').length === 0) show(current + Number(step.dataset.step))
      else if (step) form.reportValidity()
    })
    // A required field in a hidden part must be shown before the browser can point at it.
    form.addEventListener('invalid', event => show(parts.findIndex(part => part.contains(event.target))), { capture: true })
  }
}
