// Theme and side bar change at once; the server remembers them in the background.
export function preferences () {
  document.addEventListener('submit', event => {
    const form = event.target
    if (!form.action.endsWith('/preferences') || !event.submitter) return
    event.preventDefault()
    const { name, value } = event.submitter
    const data = new URLSearchParams(new FormData(form))
    data.set(name, value)
    if (name === 'theme') {
      if (value === 'system') delete document.documentElement.dataset.theme
      else document.documentElement.dataset.theme = value
      for (const button of document.querySelectorAll('button[name=theme]')) {
        if (button.value === value) button.setAttribute('aria-pressed', 'true')
        else button.removeAttribute('aria-pressed')
      }
    }
    if (name === 'sidebar') {
      const collapsed = document.body.classList.toggle('collapsed', value === 'collapsed')
      event.submitter.value = collapsed ? 'expanded' : 'collapsed'
      event.submitter.ariaLabel = event.submitter.title = collapsed ? 'Expand menu' : 'Collapse menu'
    }
    fetch(form.action, { method: 'POST', body: data, redirect: 'manual', keepalive: true }).catch(() => {})
  })
}
